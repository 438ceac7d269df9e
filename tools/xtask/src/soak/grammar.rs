//! Every command of TPM 2.0 part 3 (revision 1.59): code, handles, how many of them need authorization, parameters.

/// What a handle may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Owner, endorsement, platform or null.
    Hierarchy,
    Platform,
    Lockout,
    /// A key or data, loaded or persistent.
    Object,
    /// A hash or HMAC sequence.
    Sequence,
    /// An NV index.
    Index,
    /// What authorizes an NV index: itself, or owner or platform.
    IndexAuth,
    Pcr,
    Policy,
    /// Any session.
    Session,
    /// Anything at all.
    Entity,
}

/// What a parameter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    U8,
    U16,
    U32,
    U64,
    /// TPM2B of any content.
    Bytes,
    /// TPM2B of a digest's size.
    Digest,
    /// TPMI_ALG_HASH.
    Hash,
    /// A hierarchy in a parameter.
    Hierarchy,
    /// A handle in a parameter.
    Handle,
    /// TPM2B_SENSITIVE_CREATE.
    Sensitive,
    /// TPM2B_PUBLIC or TPM2B_TEMPLATE.
    Public,
    /// TPM2B_NV_PUBLIC.
    IndexPublic,
    /// TPML_PCR_SELECTION.
    Selection,
    /// TPML_DIGEST_VALUES.
    Digests,
    /// TPML_DIGEST.
    DigestList,
    /// TPML_CC or TPML_ALG.
    List,
    /// TPMT_SYM_DEF and TPMT_SYM_DEF_OBJECT.
    Symmetric,
    /// TPMT_SIG_SCHEME, TPMT_RSA_DECRYPT.
    Scheme,
    /// TPMT_SIGNATURE.
    Signature,
    /// TPMT_TK_*.
    Ticket,
    /// TPM2B_ECC_POINT.
    Point,
    /// TPMT_PUBLIC_PARMS.
    Parms,
    /// TPMS_CONTEXT.
    Context,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) code: u32,
    pub(super) name: &'static str,
    /// How many of the handles, from the first, need authorization.
    pub(super) auths: usize,
    pub(super) handles: &'static [Slot],
    pub(super) fields: &'static [Field],
}

const fn row(
    code: u32,
    name: &'static str,
    auths: usize,
    handles: &'static [Slot],
    fields: &'static [Field],
) -> Row {
    Row { code, name, auths, handles, fields }
}

use Field::{
    Bytes, Context, Digest, DigestList, Digests, Handle, Hash, IndexPublic, List, Parms, Point, Public,
    Scheme, Selection, Sensitive, Signature, Symmetric, Ticket, U8, U16, U32, U64,
};
use Slot::{Entity, Hierarchy, Index, IndexAuth, Lockout, Object, Pcr, Platform, Policy, Sequence, Session};

/// In order of their codes.
pub(super) const COMMANDS: &[Row] = &[
    row(0x11F, "NV_UndefineSpaceSpecial", 2, &[Index, Platform], &[]),
    row(0x120, "EvictControl", 1, &[Hierarchy, Object], &[Handle]),
    row(0x121, "HierarchyControl", 1, &[Hierarchy], &[Field::Hierarchy, U8]),
    row(0x122, "NV_UndefineSpace", 1, &[Hierarchy, Index], &[]),
    row(0x124, "ChangeEPS", 1, &[Platform], &[]),
    row(0x125, "ChangePPS", 1, &[Platform], &[]),
    row(0x126, "Clear", 1, &[Lockout], &[]),
    row(0x127, "ClearControl", 1, &[Lockout], &[U8]),
    row(0x128, "ClockSet", 1, &[Hierarchy], &[U64]),
    row(0x129, "HierarchyChangeAuth", 1, &[Hierarchy], &[Bytes]),
    row(0x12A, "NV_DefineSpace", 1, &[Hierarchy], &[Bytes, IndexPublic]),
    row(0x12B, "PCR_Allocate", 1, &[Platform], &[Selection]),
    row(0x12C, "PCR_SetAuthPolicy", 1, &[Platform], &[Digest, Hash, Handle]),
    row(0x12D, "PP_Commands", 1, &[Platform], &[List, List]),
    row(0x12E, "SetPrimaryPolicy", 1, &[Hierarchy], &[Digest, Hash]),
    row(0x12F, "FieldUpgradeStart", 1, &[Platform, Object], &[Digest, Signature]),
    row(0x130, "ClockRateAdjust", 1, &[Hierarchy], &[U8]),
    row(0x131, "CreatePrimary", 1, &[Hierarchy], &[Sensitive, Public, Bytes, Selection]),
    row(0x132, "NV_GlobalWriteLock", 1, &[Hierarchy], &[]),
    row(0x133, "GetCommandAuditDigest", 2, &[Hierarchy, Object], &[Bytes, Scheme]),
    row(0x134, "NV_Increment", 1, &[IndexAuth, Index], &[]),
    row(0x135, "NV_SetBits", 1, &[IndexAuth, Index], &[U64]),
    row(0x136, "NV_Extend", 1, &[IndexAuth, Index], &[Bytes]),
    row(0x137, "NV_Write", 1, &[IndexAuth, Index], &[Bytes, U16]),
    row(0x138, "NV_WriteLock", 1, &[IndexAuth, Index], &[]),
    row(0x139, "DictionaryAttackLockReset", 1, &[Lockout], &[]),
    row(0x13A, "DictionaryAttackParameters", 1, &[Lockout], &[U32, U32, U32]),
    row(0x13B, "NV_ChangeAuth", 1, &[Index], &[Bytes]),
    row(0x13C, "PCR_Event", 1, &[Pcr], &[Bytes]),
    row(0x13D, "PCR_Reset", 1, &[Pcr], &[]),
    row(0x13E, "SequenceComplete", 1, &[Sequence], &[Bytes, Field::Hierarchy]),
    row(0x13F, "SetAlgorithmSet", 1, &[Platform], &[U32]),
    row(0x140, "SetCommandCodeAuditStatus", 1, &[Hierarchy], &[Hash, List, List]),
    row(0x141, "FieldUpgradeData", 0, &[], &[Bytes]),
    row(0x142, "IncrementalSelfTest", 0, &[], &[List]),
    row(0x143, "SelfTest", 0, &[], &[U8]),
    row(0x144, "Startup", 0, &[], &[U16]),
    row(0x145, "Shutdown", 0, &[], &[U16]),
    row(0x146, "StirRandom", 0, &[], &[Bytes]),
    row(0x147, "ActivateCredential", 2, &[Object, Object], &[Bytes, Bytes]),
    row(0x148, "Certify", 2, &[Object, Object], &[Bytes, Scheme]),
    row(0x149, "PolicyNV", 1, &[IndexAuth, Index, Policy], &[Bytes, U16, U16]),
    row(0x14A, "CertifyCreation", 1, &[Object, Object], &[Bytes, Digest, Scheme, Ticket]),
    row(0x14B, "Duplicate", 1, &[Object, Object], &[Bytes, Symmetric]),
    row(0x14C, "GetTime", 2, &[Hierarchy, Object], &[Bytes, Scheme]),
    row(0x14D, "GetSessionAuditDigest", 2, &[Hierarchy, Object, Session], &[Bytes, Scheme]),
    row(0x14E, "NV_Read", 1, &[IndexAuth, Index], &[U16, U16]),
    row(0x14F, "NV_ReadLock", 1, &[IndexAuth, Index], &[]),
    row(0x150, "ObjectChangeAuth", 1, &[Object, Object], &[Bytes]),
    row(0x151, "PolicySecret", 1, &[Entity, Policy], &[Bytes, Digest, Bytes, U32]),
    row(0x152, "Rewrap", 1, &[Object, Object], &[Bytes, Bytes, Bytes]),
    row(0x153, "Create", 1, &[Object], &[Sensitive, Public, Bytes, Selection]),
    row(0x154, "ECDH_ZGen", 1, &[Object], &[Point]),
    row(0x155, "HMAC", 1, &[Object], &[Bytes, Hash]),
    row(0x156, "Import", 1, &[Object], &[Bytes, Public, Bytes, Bytes, Symmetric]),
    row(0x157, "Load", 1, &[Object], &[Bytes, Public]),
    row(0x158, "Quote", 1, &[Object], &[Bytes, Scheme, Selection]),
    row(0x159, "RSA_Decrypt", 1, &[Object], &[Bytes, Scheme, Bytes]),
    row(0x15B, "HMAC_Start", 1, &[Object], &[Bytes, Hash]),
    row(0x15C, "SequenceUpdate", 1, &[Sequence], &[Bytes]),
    row(0x15D, "Sign", 1, &[Object], &[Digest, Scheme, Ticket]),
    row(0x15E, "Unseal", 1, &[Object], &[]),
    row(0x160, "PolicySigned", 0, &[Object, Policy], &[Bytes, Digest, Bytes, U32, Signature]),
    row(0x161, "ContextLoad", 0, &[], &[Context]),
    row(0x162, "ContextSave", 0, &[Entity], &[]),
    row(0x163, "ECDH_KeyGen", 0, &[Object], &[]),
    row(0x164, "EncryptDecrypt", 1, &[Object], &[U8, U16, Bytes, Bytes]),
    row(0x165, "FlushContext", 0, &[], &[Handle]),
    row(0x167, "LoadExternal", 0, &[], &[Bytes, Public, Field::Hierarchy]),
    row(0x168, "MakeCredential", 0, &[Object], &[Digest, Bytes]),
    row(0x169, "NV_ReadPublic", 0, &[Index], &[]),
    row(0x16A, "PolicyAuthorize", 0, &[Policy], &[Digest, Bytes, Bytes, Ticket]),
    row(0x16B, "PolicyAuthValue", 0, &[Policy], &[]),
    row(0x16C, "PolicyCommandCode", 0, &[Policy], &[U32]),
    row(0x16D, "PolicyCounterTimer", 0, &[Policy], &[Bytes, U16, U16]),
    row(0x16E, "PolicyCpHash", 0, &[Policy], &[Digest]),
    row(0x16F, "PolicyLocality", 0, &[Policy], &[U8]),
    row(0x170, "PolicyNameHash", 0, &[Policy], &[Digest]),
    row(0x171, "PolicyOR", 0, &[Policy], &[DigestList]),
    row(0x172, "PolicyTicket", 0, &[Policy], &[Bytes, Digest, Bytes, Bytes, Ticket]),
    row(0x173, "ReadPublic", 0, &[Object], &[]),
    row(0x174, "RSA_Encrypt", 0, &[Object], &[Bytes, Scheme, Bytes]),
    row(0x176, "StartAuthSession", 0, &[Object, Entity], &[Digest, Bytes, U8, Symmetric, Hash]),
    row(0x177, "VerifySignature", 0, &[Object], &[Digest, Signature]),
    row(0x178, "ECC_Parameters", 0, &[], &[U16]),
    row(0x179, "FirmwareRead", 0, &[], &[U32]),
    row(0x17A, "GetCapability", 0, &[], &[U32, U32, U32]),
    row(0x17B, "GetRandom", 0, &[], &[U16]),
    row(0x17C, "GetTestResult", 0, &[], &[]),
    row(0x17D, "Hash", 0, &[], &[Bytes, Hash, Field::Hierarchy]),
    row(0x17E, "PCR_Read", 0, &[], &[Selection]),
    row(0x17F, "PolicyPCR", 0, &[Policy], &[Digest, Selection]),
    row(0x180, "PolicyRestart", 0, &[Policy], &[]),
    row(0x181, "ReadClock", 0, &[], &[]),
    row(0x182, "PCR_Extend", 1, &[Pcr], &[Digests]),
    row(0x183, "PCR_SetAuthValue", 1, &[Pcr], &[Digest]),
    row(0x184, "NV_Certify", 2, &[Object, IndexAuth, Index], &[Bytes, Scheme, U16, U16]),
    row(0x185, "EventSequenceComplete", 2, &[Pcr, Sequence], &[Bytes]),
    row(0x186, "HashSequenceStart", 0, &[], &[Bytes, Hash]),
    row(0x187, "PolicyPhysicalPresence", 0, &[Policy], &[]),
    row(0x188, "PolicyDuplicationSelect", 0, &[Policy], &[Bytes, Bytes, U8]),
    row(0x189, "PolicyGetDigest", 0, &[Policy], &[]),
    row(0x18A, "TestParms", 0, &[], &[Parms]),
    row(0x18B, "Commit", 1, &[Object], &[Point, Bytes, Bytes]),
    row(0x18C, "PolicyPassword", 0, &[Policy], &[]),
    row(0x18D, "ZGen_2Phase", 1, &[Object], &[Point, Point, U16, U16]),
    row(0x18E, "EC_Ephemeral", 0, &[], &[U16]),
    row(0x18F, "PolicyNvWritten", 0, &[Policy], &[U8]),
    row(0x190, "PolicyTemplate", 0, &[Policy], &[Digest]),
    row(0x191, "CreateLoaded", 1, &[Entity], &[Sensitive, Public]),
    row(0x192, "PolicyAuthorizeNV", 1, &[IndexAuth, Index, Policy], &[]),
    row(0x193, "EncryptDecrypt2", 1, &[Object], &[Bytes, U8, U16, Bytes]),
    row(0x194, "AC_GetCapability", 0, &[Entity], &[U32, U32]),
    row(0x195, "AC_Send", 2, &[Object, Entity, Entity], &[Bytes]),
    row(0x196, "Policy_AC_SendSelect", 0, &[Policy], &[Bytes, Bytes, Bytes, U8]),
    row(0x197, "CertifyX509", 2, &[Object, Object], &[Bytes, Scheme, Bytes]),
    row(0x198, "ACT_SetTimeout", 1, &[Entity], &[U32]),
    row(0x2000_0000, "Vendor_TCG_Test", 0, &[], &[Bytes]),
];

#[cfg(test)]
mod tests {
    use super::COMMANDS;

    #[test]
    fn every_code_is_there_once_in_order() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert!(COMMANDS.iter().all(|row| row.auths <= row.handles.len() && !row.name.is_empty()));
        // The gaps in part 2's table: 0x123, 0x15A, 0x15F, 0x166, 0x175 are reserved.
        let gaps = (0x11F..=0x198).filter(|code| COMMANDS.iter().all(|row| row.code != *code));
        assert_eq!(gaps.collect::<Vec<_>>(), [0x123, 0x15A, 0x15F, 0x166, 0x175]);
    }
}
