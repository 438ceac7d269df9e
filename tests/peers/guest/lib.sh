# What every guest script uses. Sourced; runs in busybox's shell in the guest and in any POSIX shell on a host.
#
# A script prints, one line each, for the host to read:
#   HUSK-STEP name PASS|FAIL what was seen     one check
#   HUSK-VALUE name value                      something the host keeps for a later boot
#   HUSK-ACK name number                       the TPM acknowledged this write
#   HUSK-END PASS|FAIL                         the script came to its end

work=$(mktemp -d)
failed=0
index=0x01800001    # 0x01800000..0x01BFFFFF: NV indices of the owner (TCG Registry of Reserved TPM 2.0 Handles)
counter=0x01800002
progress=0x01800003
primary=0x81000001  # 0x81000000..0x817FFFFF: persistent objects of the owner (same registry)
sealed=0x81000002
content="what the guest wrote on its first boot"
secret="the disk's key"
# The value that every script extends into PCR 23: SHA-256 of nothing.
extend=23:sha256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855

# Not one line of the kernel's says that the TPM was late.
never_late() {
    ! dmesg | grep -i -E 'tpm.*(timed out|error)' && echo "the kernel complains of nothing"
}

# Runs a function or command as one step; its last line of output is what was seen.
step() {
    name=$1
    shift
    if "$@" >"$work/seen" 2>&1; then
        echo "HUSK-STEP $name PASS $(tail -n 1 "$work/seen")"
    else
        echo "HUSK-STEP $name FAIL $(tr '\n' ' ' <"$work/seen" | tail -c 400)"
        failed=1
    fi
    release_handles
}

# A host without the kernel's resource manager must empty the TPM's three transient slots itself.
release_handles() {
    if [ -n "${HUSK_NO_RESOURCE_MANAGER:-}" ]; then
        tpm2 flushcontext -t 2>/dev/null
        tpm2 flushcontext -l 2>/dev/null
        tpm2 flushcontext -s 2>/dev/null
    fi
}

value() {
    echo "HUSK-VALUE $1 $2"
}

finish() {
    rm -rf "$work"
    if [ "$failed" = 0 ]; then echo "HUSK-END PASS"; else echo "HUSK-END FAIL"; fi
    exit "$failed"
}

# Succeeds only if the command fails; its complaint is what was seen.
refused() {
    if "$@"; then
        echo "was not refused: $*"
        return 1
    fi
}

counter_now() {
    echo $((0x$(tpm2 nvread -C o -s 8 "$counter" | od -An -v -tx1 | tr -d ' \n')))
}

# resetCount and safe, as `tpm2 readclock` prints them.
clock_values() {
    tpm2 readclock >"$work/clock" || return 1
    value reset-count "$(sed -n 's/.*reset_count: *//p' "$work/clock")"
    value clock-safe "$(sed -n 's/.*safe: *//p' "$work/clock")"
}

# The name of the object behind a handle or context, as hex.
name_of() {
    tpm2 readpublic -Q -c "$1" -n "$work/name" >/dev/null && od -An -v -tx1 "$work/name" | tr -d ' \n'
}

# Quotes PCRs by a new attestation key below the key that is named.
quoted() {
    nonce=$(tpm2 getrandom --hex 20) &&
        tpm2 create -Q -C "$1" -G ecc:ecdsa-sha256:null -u "$work/ak.pub" -r "$work/ak.priv" \
            -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign' &&
        tpm2 load -Q -C "$1" -u "$work/ak.pub" -r "$work/ak.priv" -c "$work/ak" &&
        tpm2 readpublic -Q -c "$work/ak" -f pem -o "$work/ak.pem" &&
        tpm2 quote -Q -c "$work/ak" -l sha256:0,10,23 -q "$nonce" -m "$work/quote" -s "$work/signature" -o "$work/pcrs" -g sha256 &&
        tpm2 checkquote -Q -u "$work/ak.pem" -m "$work/quote" -s "$work/signature" -f "$work/pcrs" -g sha256 -q "$nonce" &&
        refused tpm2 checkquote -Q -u "$work/ak.pem" -m "$work/quote" -s "$work/signature" -f "$work/pcrs" -g sha256 -q 00 2>/dev/null &&
        echo "the quote verifies, and not with another nonce"
}
