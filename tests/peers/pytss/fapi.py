"""The Feature API by tpm2-pytss: paths instead of handles."""

import sys

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import FAPI, FAPIConfig

from steps import refused, run, step


@step
def provisions_once(fapi):
    fapi.provision(is_provisioned_ok=False)
    said = refused(fapi.provision, is_provisioned_ok=False)
    return f"{len(fapi.list())} paths; again: {said}"


@step
def signs(fapi):
    fapi.create_key("HS/SRK/signs", "sign,noda,exportable")
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"message")
    digest = digest.finalize()
    signature, pem, _ = fapi.sign("HS/SRK/signs", digest)
    serialization.load_pem_public_key(pem).verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
    fapi.verify_signature("HS/SRK/signs", digest, signature)
    said = refused(fapi.verify_signature, "HS/SRK/signs", bytes(32), signature)
    return f"verified outside; of something else: {said}"


@step
def seals(fapi):
    fapi.create_seal("HS/SRK/sealed", data=b"secret", exists_ok=False)
    assert fapi.unseal("HS/SRK/sealed") == b"secret"
    return "unsealed"


@step
def seals_to_pcrs(fapi):
    fapi.import_object("policy/now", '{"description":"now","policy":[{"type":"POLICYPCR","currentPCRs":[16]}]}')
    fapi.create_seal("HS/SRK/measured", data=b"secret", policy_path="policy/now")
    assert fapi.unseal("HS/SRK/measured") == b"secret"
    fapi.pcr_extend(16, b"event")
    return f"closed: {refused(fapi.unseal, 'HS/SRK/measured')}"


@step
def remembers(fapi):
    fapi.create_nv("nv/Owner/ordinary", 10, "noda")
    fapi.nv_write("nv/Owner/ordinary", b"0123456789")
    data, _ = fapi.nv_read("nv/Owner/ordinary")
    assert data == b"0123456789", data
    fapi.create_nv("nv/Owner/counter", 0, "noda,counter")
    counts = []
    for _ in range(3):
        fapi.nv_increment("nv/Owner/counter")
        counts.append(int.from_bytes(fapi.nv_read("nv/Owner/counter")[0], "big"))
    assert counts == list(range(counts[0], counts[0] + 3)), counts
    return f"an index, a counter at {counts[-1]}"


@step
def quotes(fapi):
    fapi.create_key("HS/SRK/quotes", "sign,restricted,noda")
    info, signature, log, _ = fapi.quote("HS/SRK/quotes", [0, 16], quote_type="TPM-Quote", qualifying_data=b"nonce")
    fapi.verify_quote("HS/SRK/quotes", signature, info, qualifying_data=b"nonce", pcr_log=log)
    said = refused(fapi.verify_quote, "HS/SRK/quotes", signature, info, qualifying_data=b"other", pcr_log=log)
    return f"with another nonce: {said}"


@step
def deletes(fapi):
    fapi.delete("HS/SRK/signs")
    return f"then: {refused(fapi.sign, 'HS/SRK/signs', bytes(32))}"


if __name__ == "__main__":
    settings = {"tcti": sys.argv[1], "profile_name": "P_ECCP256SHA256", "ek_cert_less": "yes", "temp_dirs": True}
    with FAPIConfig(**settings), FAPI() as context:
        run(context)
