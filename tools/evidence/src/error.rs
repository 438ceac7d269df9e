//! Why a report is not believed.

use husk::attest::report::ReportDefect;

/// Why a report is not believed: what, whose fault, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// The report's bytes break the table.
    #[error(
        "the report is malformed: {0}. The sender garbled it, or its firmware is newer than this program: update"
    )]
    Malformed(#[from] ReportDefect),
    /// MASK_CHIP_KEY: the signature is zeros.
    #[error(
        "the host masks the chip's key, so the report is not signed. The host's operator must clear MASK_CHIP_KEY"
    )]
    Masked,
    /// SIGNING_KEY says that nobody signed.
    #[error("the report says that no key signed it. Ask the processor for a report with a signing key")]
    NotSigned,
    /// The bytes are not a certificate of the expected shape.
    #[error("{whose} is malformed: {what}. Fetch it again from AMD's key service")]
    BadCertificate {
        /// Which certificate.
        whose: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The chain ends in a simulated processor, and this verifier accepts none.
    #[error(
        "'{issuer}' is a simulated processor, not silicon. For tests only: tell the verifier to accept its root"
    )]
    SimulatedSilicon {
        /// Who issued the certificate.
        issuer: String,
    },
    /// Nobody known issued the certificate.
    #[error(
        "nobody known issued the certificate ('{issuer}'). If AMD did (a VLEK or a new product), add its intermediate \
         certificate to the evidence folder"
    )]
    UnknownIssuer {
        /// Who it says issued it.
        issuer: String,
    },
    /// A root that claims to be AMD's has another key.
    #[error("the certificate '{name}' calls itself AMD's root, but its key is not. Whoever supplied it lies")]
    FalseRoot {
        /// Its common name.
        name: String,
    },
    /// A certificate's signature does not verify.
    #[error(
        "the signature on certificate '{subject}' is not by '{issuer}'. Whoever supplied it garbled or forged it"
    )]
    ChainSignature {
        /// Whose certificate.
        subject: String,
        /// Who should have signed.
        issuer: String,
    },
    /// The certificate was revoked.
    #[error(
        "the certificate '{name}' was revoked by '{issuer}'. Nothing under it may have keys: ask AMD or the provider"
    )]
    Revoked {
        /// Whose certificate.
        name: String,
        /// Who says so.
        issuer: String,
    },
    /// The revocation list is not newer than the one that is known.
    #[error(
        "the revocation list of '{issuer}' is older than the one that is known, which stays. Fetch the newest"
    )]
    OlderList {
        /// Whose list.
        issuer: String,
    },
    /// The report's signing key and the certificate's kind differ.
    #[error(
        "the report was signed by a {report}, but the certificate is a {certificate}'s. Supply the matching one"
    )]
    WrongKind {
        /// SIGNING_KEY of the report.
        report: &'static str,
        /// The certificate's kind.
        certificate: &'static str,
    },
    /// Report, certificate and root speak of different products.
    #[error(
        "the certificate is for product '{product}', which is not what {other} says. Supply the matching one"
    )]
    WrongProduct {
        /// The product extension.
        product: String,
        /// What contradicts it.
        other: &'static str,
    },
    /// The certificate's patch levels are not REPORTED_TCB.
    #[error(
        "the certificate is for other patch levels than the report's REPORTED_TCB. Fetch the one for that TCB"
    )]
    WrongTcb,
    /// The certificate's HWID is not CHIP_ID.
    #[error("the certificate is for another chip than the report's CHIP_ID. Supply this chip's")]
    WrongChip,
    /// The signature on the report does not verify.
    #[error(
        "the report's signature does not verify. Whoever sent it garbled or forged it: do not release anything"
    )]
    ReportSignature,
    /// A root that is to be accepted as simulated does not call itself so.
    #[error(
        "'{name}' does not call itself simulated, so it is not accepted as such. Use the root of `husk psp init`"
    )]
    NotSimulated {
        /// Its common name.
        name: String,
    },
    /// A services manifest breaks its layout.
    #[error("the manifest is malformed: {0}. Whoever sent it garbled it, or another program's SVSM wrote it")]
    BadManifest(&'static str),
    /// The report does not cover the manifest and the nonce.
    #[error(
        "the report does not cover this manifest and this nonce: it was made for others. Ask for a new report"
    )]
    ManifestUnbound,
    /// A manifest counts only under a report at VMPL 0.
    #[error(
        "the report is of VMPL {vmpl}, so the guest made it, not the firmware beneath. Ask the SVSM for one"
    )]
    NotVmpl0 {
        /// The report's VMPL.
        vmpl: u32,
    },
    /// A certificate of an endorsement key breaks the profile.
    #[error(
        "the endorsement key's certificate is malformed: {0}. Read it again from the TPM's NV index (0x01C00002 for RSA), or ask its issuer"
    )]
    BadEkCertificate(&'static str),
    /// What is to be believed about endorsement keys cannot be read.
    #[error("the authorities' certificates cannot be read: {0}. Name a PEM bundle or one DER certificate")]
    BadAuthority(&'static str),
    /// No root vouches for a certificate of an endorsement key.
    #[error(
        "none of the named roots vouches for the endorsement key's certificate ({why}). Name the TPM maker's root and intermediates, or do \
         not believe that it is a TPM's"
    )]
    EkChain {
        /// What did not hold.
        why: String,
    },
    /// The certificate is not that endorsement key's.
    #[error("the certificate is for another endorsement key than the one shown. Supply this TPM's")]
    OtherEndorsementKey,
    /// A quote breaks its layout.
    #[error("the quote is malformed: {0}. Whoever sent it garbled it; a TPM signs a TPMS_ATTEST of a quote")]
    BadQuote(&'static str),
    /// A signature breaks its layout.
    #[error(
        "the quote's signature is malformed: {0}. A TPMT_SIGNATURE is wanted, as `tpm2_quote --signature` writes it"
    )]
    BadSignature(&'static str),
    /// The attestation key's public half breaks its layout, or is of a key that cannot attest.
    #[error("the attestation key is not one: {0}. Supply its public area (`tpm2_createak --public`), or PEM")]
    BadAttestationKey(&'static str),
    /// The signature on a quote does not verify.
    #[error(
        "the quote's signature does not verify under this key. Whoever sent it garbled or forged it, or another key signed"
    )]
    QuoteSignature,
    /// The quote was made for another nonce.
    #[error(
        "the quote does not answer this nonce: it was made for another, perhaps long ago. Ask for a new one"
    )]
    QuoteNonce,
    /// The PCR values are not the quoted ones.
    #[error(
        "the PCR values are not the quoted ones: {0}. Ask for values and quote in one call of `tpm2_quote`"
    )]
    QuotePcrs(&'static str),
    /// The file holds no report.
    #[error("this is neither a report of 1184 bytes nor a processor's answer that holds one. Check the file")]
    NoReport,
    /// The file holds no certificate of a signing key.
    #[error("no certificate of a signing key is here: {0}. Supply the VCEK or VLEK of the report")]
    NoCertificate(&'static str),
    /// The file or folder could not be read.
    #[error("cannot read {path}: {why}. Check the path and its permissions")]
    Unreadable {
        /// Which file or folder.
        path: String,
        /// What the system says.
        why: String,
    },
}
