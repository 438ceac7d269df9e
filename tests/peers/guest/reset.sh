# What a reset of the machine by its guest keeps and what it clears. Sourced, behind `lib.sh`, by scripts that run twice: what the
# first time must remember lies in the TPM itself.

across=0x01800004   # holds the key's name and the reset count of the first time, 64 characters and 16

zeros() { printf '%064d' 0; }

pcr_now() {
    tpm2 pcrread -Q -o "$work/pcr" "sha256:$1" && od -An -v -tx1 "$work/pcr" | tr -d ' \n'
}

resets() {
    tpm2 readclock | sed -n 's/.*reset_count: *//p'
}

leave() {
    tpm2 createprimary -Q -C o -G ecc -c "$work/primary" &&
        tpm2 evictcontrol -Q -C o -c "$work/primary" "$primary" &&
        tpm2 create -Q -C "$primary" -G rsa2048 -u "$work/rsa.pub" -r "$work/rsa.priv" &&
        tpm2 nvdefine -Q -C o -s 84 -a 'ownerread|ownerwrite' "$across" &&
        printf '%s%016d' "$(name_of "$primary")" "$(resets)" | tpm2 nvwrite -Q -C o -i - "$across" &&
        tpm2 pcrextend "$extend" &&
        [ "$(pcr_now 23)" != "$(zeros)" ] &&
        echo "an index, a persistent key, a measured PCR"
}

kept() {
    was=$(tpm2 nvread -C o -s 84 "$across") || return 1
    now=$(resets)
    echo "the index and the key are there; resets before $(echo "$was" | cut -c 69-84), now $now"
    [ "$(echo "$was" | cut -c 1-68)" = "$(name_of "$primary")" ] &&
        [ "$now" -gt "$(echo "$was" | cut -c 69-84 | sed 's/^0*\(.\)/\1/')" ]
}

cleared() {
    [ "$(pcr_now 23)" = "$(zeros)" ] && echo "PCR 23 is zero"
}

# Resets the machine behind a step that leaves something there.
resets_behind() {
    step leave "$1"
    [ "$failed" = 0 ] || finish
    echo "HUSK-STEP resets-the-machine PASS by the guest itself"
    reboot -f
}

# Comes to the script's end where there was a reset before; makes one where there was none.
reset_or_finish() {
    if tpm2 nvreadpublic "$across" >/dev/null 2>&1; then
        step kept-over-reset kept
        finish
    fi
    resets_behind leave
}
