# A CRB in the guest's own memory: where the kernel's driver has it, a whole flow over it, and a reset of the machine.
# Before it, another machine of this VM's left in the TPM what `reset.sh` leaves.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/reset.sh"

# The driver's two pages lie inside memory that the firmware reserved, below the end of RAM, and nowhere near the PTP's address.
in_reserved_memory() {
    grep -n . /proc/iomem >"$work/iomem"
    line=$(grep -m 1 MSFT0101 "$work/iomem") || { cat "$work/iomem"; return 1; }
    before=$(grep -B 1 -m 1 MSFT0101 "$work/iomem" | head -n 1)
    echo "$before | $line"
    case $before in *Reserved*) ;; *) return 1 ;; esac
    start=$(echo "$line" | sed 's/^[0-9]*: *\([0-9a-f]*\)-.*/\1/')
    [ $((0x$start)) -gt 0 ] && [ $((0x$start)) -lt $((768 << 20)) ] && ! grep -q fed4 "$work/iomem"
}

sealed_to_pcr() {
    tpm2 createprimary -Q -C o -G ecc -c "$work/parent" &&
        tpm2 createpolicy -Q --policy-pcr -l sha256:23 -L "$work/policy" &&
        printf %s "$secret" | tpm2 create -Q -C "$work/parent" -L "$work/policy" -i - -u "$work/pub" -r "$work/priv" &&
        tpm2 load -Q -C "$work/parent" -u "$work/pub" -r "$work/priv" -c "$work/sealed" &&
        [ "$(tpm2 unseal -c "$work/sealed" -p pcr:sha256:23)" = "$secret" ] &&
        tpm2 pcrextend "$extend" &&
        refused tpm2 unseal -c "$work/sealed" -p pcr:sha256:23 2>/dev/null &&
        echo "opens before PCR 23 moves and not behind"
}

again=0x01800005    # is there behind this machine's reset

leave_again() {
    tpm2 nvdefine -Q -C o -s 8 -a 'ownerread|ownerwrite' "$again" &&
        printf %08d 7 | tpm2 nvwrite -Q -C o -i - "$again" &&
        [ "$(pcr_now 23)" != "$(zeros)" ] &&
        echo "one index more, a measured PCR"
}

still_there() {
    [ "$(tpm2 nvread -C o -s 8 "$again")" = 00000007 ] && kept
}

step in-reserved-memory in_reserved_memory
step pcr-zero-at-power-on cleared
step sealed-to-pcr sealed_to_pcr
step quote quoted "$work/parent"
step never-late never_late
if tpm2 nvreadpublic "$again" >/dev/null 2>&1; then
    step kept-over-reset still_there
    finish
fi
resets_behind leave_again
