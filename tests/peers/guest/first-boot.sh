# The first boot of a guest: puts everything into the TPM that the second boot looks for.
. "$(dirname "$0")/lib.sh"

nv_index() {
    tpm2 nvdefine -Q -C o -s 64 -a 'ownerread|ownerwrite' "$index" &&
        printf %s "$content" | tpm2 nvwrite -Q -C o -i - "$index" &&
        [ "$(tpm2 nvread -C o -s ${#content} "$index")" = "$content" ] &&
        echo "${#content} bytes read back"
}

nv_counter() {
    tpm2 nvdefine -Q -C o -s 8 -a 'nt=counter|ownerread|ownerwrite' "$counter" &&
        tpm2 nvincrement -Q -C o "$counter" &&
        before=$(counter_now) &&
        tpm2 nvincrement -Q -C o "$counter" &&
        [ "$(counter_now)" = $((before + 1)) ] &&
        echo "counts $before, $((before + 1))"
}

key_persists() {
    tpm2 createprimary -Q -C o -G ecc -c "$work/primary" &&
        tpm2 evictcontrol -Q -C o -c "$work/primary" "$primary" &&
        echo "at $primary"
}

sealed_to_pcr() {
    tpm2 pcrextend "$extend" &&
        tpm2 createpolicy -Q --policy-pcr -l sha256:23 -L "$work/policy" &&
        printf %s "$secret" | tpm2 create -Q -C "$primary" -L "$work/policy" -i - -u "$work/pub" -r "$work/priv" &&
        tpm2 load -Q -C "$primary" -u "$work/pub" -r "$work/priv" -c "$work/sealed" &&
        tpm2 evictcontrol -Q -C o -c "$work/sealed" "$sealed" &&
        release_handles &&
        [ "$(tpm2 unseal -c "$sealed" -p pcr:sha256:23)" = "$secret" ] &&
        echo "unseals under PCR 23"
}

rsa_key() {
    printf %s "$secret" >"$work/plain"
    tpm2 create -Q -C "$primary" -G rsa2048 -u "$work/rsa.pub" -r "$work/rsa.priv" \
        -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|decrypt|sign' &&
        tpm2 load -Q -C "$primary" -u "$work/rsa.pub" -r "$work/rsa.priv" -c "$work/rsa" &&
        release_handles &&
        tpm2 rsaencrypt -Q -c "$work/rsa" -s oaep -o "$work/encrypted" "$work/plain" &&
        release_handles &&
        [ "$(tpm2 rsadecrypt -c "$work/rsa" -s oaep "$work/encrypted")" = "$secret" ] &&
        release_handles &&
        tpm2 sign -Q -c "$work/rsa" -g sha256 -s rsapss -o "$work/signed" "$work/plain" &&
        release_handles &&
        tpm2 verifysignature -Q -c "$work/rsa" -g sha256 -m "$work/plain" -s "$work/signed" &&
        echo "decrypts and signs"
}

step nv-index nv_index
step nv-counter nv_counter
step key-persists key_persists
step sealed-to-pcr sealed_to_pcr
step rsa-key rsa_key
step quote quoted "$primary"
value counter "$(counter_now)"
value key-name "$(name_of "$primary")"
clock_values
finish
