# Two processors: one goes and comes back while TPM commands run; then the machine is reset, and all of it is tried again.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/reset.sh"

second=/sys/devices/system/cpu/cpu1/online

two_processors() {
    [ "$(cat /sys/devices/system/cpu/online)" = 0-1 ] && echo "0 and 1 are online"
}

# Commands until told to stop; the count of those that were answered.
commands() {
    count=0
    while [ ! -e "$work/stop" ]; do
        tpm2 getrandom -Q -o "$work/random" 16 || return 1
        count=$((count + 1))
        echo $count >"$work/answered.partial"
        mv "$work/answered.partial" "$work/answered"
    done
    touch "$work/all-answered"
}

# Returns when more commands were answered than before.
one_more() {
    before=$(cat "$work/answered")
    while [ "$(cat "$work/answered")" = "$before" ]; do
        kill -0 "$clients" 2>/dev/null || return 1
        sleep 0.1
    done
}

processor_goes_and_comes() {
    rm -f "$work/stop" "$work/all-answered"
    echo 0 >"$work/answered"
    commands &
    clients=$!
    for _ in 1 2 3; do
        echo 0 >$second && [ "$(cat /sys/devices/system/cpu/online)" = 0 ] && one_more &&
            echo 1 >$second && [ "$(cat /sys/devices/system/cpu/online)" = 0-1 ] && one_more || break
        rounds=$((rounds + 1))
    done
    touch "$work/stop"
    wait $clients
    [ -e "$work/all-answered" ] && [ "$rounds" = 3 ] &&
        echo "three times, while $(cat "$work/answered") commands were answered"
}

rounds=0
step pcr-zero-at-power-on cleared
step two-processors two_processors
step processor-goes-and-comes processor_goes_and_comes
reset_or_finish
