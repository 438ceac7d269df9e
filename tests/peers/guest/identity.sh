# Who this TPM is: its maker, its endorsement keys and their certificates, for the host to compare and to verify.
. "$(dirname "$0")/lib.sh"

maker() {
    tpm2 getcap properties-fixed >"$work/fixed" &&
        sed -n '/TPM2_PT_MANUFACTURER:/,/value:/s/.*value: *//p' "$work/fixed"
}

endorsement_key() {
    tpm2 createek -Q -G "$1" -c "$work/ek" -u "$work/ek.pub" && name_of "$work/ek"
}

# The certificate in an NV index of the TCG EK Credential Profile 2.5 §2.2.1.4, as hex, or `absent`.
certificate() {
    tpm2 nvreadpublic "$1" >/dev/null 2>&1 || { echo absent; return 0; }
    tpm2 nvread -C o "$1" 2>/dev/null | od -An -v -tx1 | tr -d ' \n'
}

step maker maker
for kind in rsa ecc; do
    step "ek-$kind" endorsement_key "$kind"
    value "ek-$kind-name" "$(name_of "$work/ek")"
    release_handles
done
value ek-rsa-certificate "$(certificate 0x01C00002)"
value ek-ecc-certificate "$(certificate 0x01C0000A)"
clock_values
finish
