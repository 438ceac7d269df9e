"""The enhanced system API by tpm2-pytss: sessions, keys, memory, attestation, in one process that keeps its handles."""

import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from tpm2_pytss import *
from tpm2_pytss.utils import make_credential

from steps import refused, run, step

INDEX = 0x1500020
# TPM_GENERATED_VALUE (TPM 2.0 part 2)
GENERATED = 0xFF544347
AES = TPMT_SYM_DEF(
    algorithm=TPM2_ALG.AES,
    keyBits=TPMU_SYM_KEY_BITS(aes=128),
    mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB),
)
NO_CIPHER = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
SIGNING = TPMA_OBJECT.DEFAULT_TPM2_TOOLS_CREATE_ATTRS & ~TPMA_OBJECT.DECRYPT


def public_key(public):
    return serialization.load_pem_public_key(public.to_pem())


def primary(ectx, algorithm="ecc", hierarchy=ESYS_TR.OWNER):
    return ectx.create_primary(None, algorithm, primary_handle=hierarchy)[0]


def child(ectx, parent, algorithm, attributes=SIGNING, password=None, policy=b""):
    sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=password or b""))
    template = TPM2B_PUBLIC.parse(algorithm, objectAttributes=attributes, authPolicy=policy)
    private, public, _, _, _ = ectx.create(parent, sensitive, template)
    return ectx.load(parent, private, public), public


def session(ectx, kind, salt=ESYS_TR.NONE, bind=ESYS_TR.NONE, cipher=NO_CIPHER, alg=TPM2_ALG.SHA256):
    return ectx.start_auth_session(salt, bind, kind, cipher, alg)


@step
def starts_up(ectx):
    try:
        ectx.startup(TPM2_SU.CLEAR)
    except TSS2_Exception as error:
        assert error.rc == TPM2_RC.INITIALIZE, error
        return "somebody did already"
    return "now"


@step
def says_what_it_is(ectx):
    more, data = ectx.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.FAMILY_INDICATOR, 1)
    family = data.data.tpmProperties[0].value
    assert family == int.from_bytes(b"2.0\0", "big"), hex(family)
    ectx.self_test(True)
    result, code = ectx.get_test_result()
    assert code == TPM2_RC.SUCCESS, code
    one, two = ectx.get_random(32), ectx.get_random(32)
    assert len(one) == 32 and bytes(one) != bytes(two)
    return f"TPM 2.0, more properties follow: {bool(more)}"


@step
def ecdsa_verifies_outside(ectx):
    parent = primary(ectx)
    key, public = child(ectx, parent, "ecc:ecdsa-sha256:null", password=b"word")
    ectx.tr_set_auth(key, b"word")
    digest, ticket = ectx.hash(b"message", TPM2_ALG.SHA256, ESYS_TR.OWNER)
    signature = ectx.sign(key, digest, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), ticket)
    public_key(public).verify(bytes(signature), b"message", ec.ECDSA(hashes.SHA256()))
    try:
        public_key(public).verify(bytes(signature), b"another", ec.ECDSA(hashes.SHA256()))
        raise AssertionError("a signature of something else")
    except InvalidSignature:
        pass
    ectx.verify_signature(key, digest, signature)
    ectx.tr_set_auth(key, b"guess")
    said = refused(ectx.sign, key, digest, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), ticket)
    ectx.dictionary_attack_lock_reset(ESYS_TR.LOCKOUT)
    ectx.flush_context(key)
    ectx.flush_context(parent)
    return f"and a wrong password: {said}"


@step
def rsa_decrypts_what_others_encrypted(ectx):
    parent = primary(ectx)
    attributes = TPMA_OBJECT.DEFAULT_TPM2_TOOLS_CREATE_ATTRS & ~TPMA_OBJECT.SIGN_ENCRYPT
    key, public = child(ectx, parent, "rsa2048:oaep-sha256:null", attributes)
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    secret = public_key(public).encrypt(b"message", oaep)
    scheme = TPMT_RSA_DECRYPT(scheme=TPM2_ALG.OAEP)
    scheme.details.oaep.hashAlg = TPM2_ALG.SHA256
    assert bytes(ectx.rsa_decrypt(key, secret, scheme)) == b"message"
    ectx.flush_context(key)
    ectx.flush_context(parent)
    return "OAEP with SHA-256"


@step
def parameters_are_encrypted_both_ways(ectx):
    salt = primary(ectx)
    handle = session(ectx, TPM2_SE.HMAC, salt=salt, bind=salt, cipher=AES)
    both = TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT | TPMA_SESSION.CONTINUESESSION
    ectx.trsess_set_attributes(handle, both)
    public = TPM2B_NV_PUBLIC(
        TPMS_NV_PUBLIC(
            nvIndex=INDEX,
            nameAlg=TPM2_ALG.SHA256,
            attributes=TPMA_NV.parse("ownerread|ownerwrite|authread|authwrite"),
            dataSize=8,
        )
    )
    index = ectx.nv_define_space(b"word", public, session1=handle)
    ectx.nv_write(index, b"content!", auth_handle=index, session1=handle)
    assert bytes(ectx.nv_read(index, 8, auth_handle=index, session1=handle)) == b"content!"
    random = ectx.get_random(16, session1=handle)
    ectx.nv_undefine_space(index, session1=handle)
    ectx.flush_context(handle)
    ectx.flush_context(salt)
    return f"salted, bound; {len(random)} random bytes under it"


@step
def every_kind_of_index(ectx):
    def define(nv_type, size):
        attributes = TPMA_NV.parse("ownerread|ownerwrite|authread|authwrite|no_da") | (nv_type << TPMA_NV.TPM2_NT_SHIFT)
        public = TPMS_NV_PUBLIC(nvIndex=INDEX, nameAlg=TPM2_ALG.SHA256, attributes=attributes, dataSize=size)
        return ectx.nv_define_space(None, TPM2B_NV_PUBLIC(public))

    def read(index, size):
        return bytes(ectx.nv_read(index, size, auth_handle=index))

    index = define(TPM2_NT.COUNTER, 8)
    counts = []
    for _ in range(3):
        ectx.nv_increment(index, auth_handle=index)
        counts.append(int.from_bytes(read(index, 8), "big"))
    assert counts == list(range(counts[0], counts[0] + 3)), counts
    ectx.nv_undefine_space(index)
    index = define(TPM2_NT.BITS, 8)
    ectx.nv_set_bits(index, 0x11, auth_handle=index)
    ectx.nv_set_bits(index, 0x100, auth_handle=index)
    assert int.from_bytes(read(index, 8), "big") == 0x111
    ectx.nv_undefine_space(index)
    index = define(TPM2_NT.EXTEND, 32)
    ectx.nv_extend(index, b"event", auth_handle=index)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(bytes(32) + b"event")
    assert read(index, 32) == digest.finalize()
    ectx.nv_undefine_space(index)
    return f"counter {counts}, bits, extend"


@step
def a_policy_opens_and_closes_with_a_pcr(ectx):
    selection = TPML_PCR_SELECTION.parse("sha256:16")
    ectx.pcr_reset(ESYS_TR.PCR16)
    trial = session(ectx, TPM2_SE.TRIAL)
    ectx.policy_pcr(trial, TPM2B_DIGEST(), selection)
    policy = ectx.policy_get_digest(trial)
    ectx.flush_context(trial)
    parent = primary(ectx)
    sealed = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=b"secret"))
    fixed = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT
    template = TPM2B_PUBLIC.parse("keyedhash", objectAttributes=fixed, authPolicy=policy)
    private, public, _, _, _ = ectx.create(parent, sealed, template)
    item = ectx.load(parent, private, public)

    def unseal():
        handle = session(ectx, TPM2_SE.POLICY)
        try:
            ectx.policy_pcr(handle, TPM2B_DIGEST(), selection)
            return bytes(ectx.unseal(item, session1=handle))
        finally:
            ectx.flush_context(handle)

    assert unseal() == b"secret"
    ectx.pcr_event(ESYS_TR.PCR16, b"event")
    said = refused(unseal)
    ectx.pcr_reset(ESYS_TR.PCR16)
    assert unseal() == b"secret"
    ectx.flush_context(item)
    ectx.flush_context(parent)
    return f"closed: {said}"


@step
def a_quote_says_what_was_asked(ectx):
    parent = primary(ectx, hierarchy=ESYS_TR.ENDORSEMENT)
    attributes = SIGNING | TPMA_OBJECT.RESTRICTED
    key, public = child(ectx, parent, "ecc:ecdsa-sha256:null", attributes)
    scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
    quoted, signature = ectx.quote(key, "sha256:0,16", b"nonce", scheme)
    attest, _ = TPMS_ATTEST.unmarshal(bytes(quoted))
    assert attest.magic == GENERATED and bytes(attest.extraData) == b"nonce"
    public_key(public).verify(bytes(signature), bytes(quoted), ec.ECDSA(hashes.SHA256()))
    _, _, values = ectx.pcr_read("sha256:0,16")
    digest = hashes.Hash(hashes.SHA256())
    for value in values:
        digest.update(bytes(value))
    assert bytes(attest.attested.quote.pcrDigest) == digest.finalize()
    ectx.flush_context(key)
    ectx.flush_context(parent)
    return f"reset count {attest.clockInfo.resetCount}"


@step
def a_credential_comes_out_where_both_keys_are(ectx):
    ek, ek_public, _, _, _ = ectx.create_primary(None, "rsa2048", primary_handle=ESYS_TR.ENDORSEMENT)
    key, public = child(ectx, ek, "ecc:ecdsa-sha256:null", SIGNING | TPMA_OBJECT.RESTRICTED)
    blob, secret = make_credential(ek_public, b"for this TPM", public.get_name())
    assert bytes(ectx.activate_credential(key, ek, blob, secret)) == b"for this TPM"
    altered = bytearray(bytes(blob))
    altered[-1] ^= 1
    said = refused(ectx.activate_credential, key, ek, TPM2B_ID_OBJECT(bytes(altered)), secret)
    ectx.flush_context(key)
    ectx.flush_context(ek)
    return f"altered: {said}"


@step
def contexts_leave_and_come_back(ectx):
    parent = primary(ectx)
    name = bytes(ectx.read_public(parent)[1])
    saved = [ectx.context_save(parent) for _ in range(2)]
    ectx.flush_context(parent)
    for context in saved:
        again = ectx.context_load(context)
        assert bytes(ectx.read_public(again)[1]) == name
        ectx.flush_context(again)
    handles = [session(ectx, TPM2_SE.HMAC) for _ in range(3)]
    contexts = [ectx.context_save(handle) for handle in handles]
    for context in reversed(contexts):
        ectx.flush_context(ectx.context_load(context))
    return "an object twice, three sessions in reverse"


@step
def persistent_keys(ectx):
    parent = primary(ectx)
    kept = ectx.evict_control(ESYS_TR.OWNER, parent, 0x81000005)
    ectx.flush_context(parent)
    found = ectx.tr_from_tpmpublic(0x81000005)
    assert bytes(ectx.read_public(found)[1]) == bytes(ectx.tr_get_name(kept))
    ectx.evict_control(ESYS_TR.OWNER, found, 0x81000005)
    said = refused(ectx.tr_from_tpmpublic, 0x81000005)
    return f"gone: {said}"


@step
def too_many_objects_are_refused_and_room_comes_back(ectx):
    held = []

    def fill():
        while True:
            held.append(primary(ectx))

    said = refused(fill)
    for handle in held:
        ectx.flush_context(handle)
    ectx.flush_context(primary(ectx))
    return f"{len(held)} at once, then: {said}"


if __name__ == "__main__":
    with ESAPI(sys.argv[1]) as context:
        run(context)
