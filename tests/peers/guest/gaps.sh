# How long a thread that wants to wake every millisecond has to wait at most, while a TPM, if there is one, makes RSA keys.
. "$(dirname "$0")/lib.sh"

keys() {
    made=0
    while [ ! -e "$work/stop" ]; do
        tpm2 create -Q -C "$work/primary" -G rsa2048 -u "$work/public" -r "$work/private" || return 1
        made=$((made + 1))
        echo $made >"$work/made"
    done
}

longest_gap() {
    cyclictest --quiet --mlockall --priority=90 --interval=1000 --duration="${HUSK_SECONDS:-10}" >"$work/latency" || return 1
    value longest-gap-us "$(sed -n 's/.*Max: *\([0-9]*\).*/\1/p' "$work/latency")" >/dev/console
    tail -n 1 "$work/latency"
}

if [ "${HUSK_DRIVER:-}" != none ]; then
    step primary tpm2 createprimary -Q -C o -G ecc -c "$work/primary"
    echo 0 >"$work/made"
    keys &
fi
step longest-gap longest_gap
touch "$work/stop"
wait
value keys-made "$(cat "$work/made" 2>/dev/null || echo 0)"
finish
