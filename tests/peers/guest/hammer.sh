# Writes without end; prints every number that the TPM acknowledged, so that a kill at any moment can be judged on the
# next boot. Needs the counter of `first-boot`. HUSK_HAMMER_WRITES bounds it; without it only a kill ends it.
. "$(dirname "$0")/lib.sh"

number=$(counter_now) || finish
tpm2 nvdefine -Q -C o -s 8 -a 'ownerread|ownerwrite' "$progress" 2>/dev/null
written=0
while [ -z "${HUSK_HAMMER_WRITES:-}" ] || [ "$written" -lt "$HUSK_HAMMER_WRITES" ]; do
    if ! tpm2 nvincrement -Q -C o "$counter"; then failed=1; break; fi
    number=$((number + 1))
    written=$((written + 1))
    echo "HUSK-ACK counter $number"
    if ! printf %08d "$written" | tpm2 nvwrite -Q -C o -i - "$progress"; then failed=1; break; fi
    echo "HUSK-ACK progress $written"
    release_handles
done
finish
