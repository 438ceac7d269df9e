# Below the image: a guest earns a secret from its broker through a serial line, and once it is another than its tenant wants, it does not.
. "$(dirname "$0")/lib.sh"

here=$(dirname "$0")
printf %s "$HUSK_CONFIG" | xxd -r -p >"$work/config"

# One line to a broker; what comes of it, on its standard output.
unlock() {
    "$here/husk-unlock" --name disk --config "$work/config" --broker /dev/ttyS1 --wait-seconds 30 "$@"
}

# What this guest was started as, for its tenant to say that this is right.
values() {
    tpm2 pcrread sha256:0,4,8,9,11 | tr A-F a-f | sed -n 's/^ *\([0-9][0-9]*\) *: *0x\([0-9a-f]*\)$/sha256:\1=\2/p' | tr '\n' ','
}

nothing_before_the_tenant_keeps_one() {
    ! unlock >"$work/secret" 2>"$work/why" && [ ! -s "$work/secret" ] && grep 'no secret of that name' "$work/why"
}

# The tenant keeps it once it has seen the values.
earned() {
    for _ in $(seq 60); do
        unlock --out "$work/keys/disk.key" 2>"$work/why" && break
        sleep 2
    done
    [ "$(sha256sum <"$work/keys/disk.key" | cut -c 1-64)" = "$HUSK_DIGEST" ] || { cat "$work/why"; return 1; }
    [ "$(stat -c %a "$work/keys/disk.key")" = 600 ] && echo "$(wc -c <"$work/keys/disk.key") bytes, for their owner alone"
}

other_values_earn_nothing() {
    tpm2 pcrextend 11:sha256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 &&
        ! unlock >"$work/secret" 2>"$work/why" && [ ! -s "$work/secret" ] && grep 'other values than the tenant allows' "$work/why"
}

step nothing-yet nothing_before_the_tenant_keeps_one
value pcrs "$(values)"
value told yes
step earned earned
step other-pcrs-earn-nothing other_values_earn_nothing
step never-late never_late
finish
