# What was measured before this guest ran: the log that its kernel shows replays to the PCRs that its TPM has.
. "$(dirname "$0")/lib.sh"

log=/sys/kernel/security/tpm0/binary_bios_measurements

# Lines of `number value` from what tpm2-tools print of a bank.
values() {
    tr A-F a-f | sed -n 's/^ *\([0-9][0-9]*\) *: *0x\([0-9a-f]*\)$/\1 \2/p'
}

replays() {
    mount -t securityfs none /sys/kernel/security 2>/dev/null
    tpm2 eventlog "$log" >"$work/events" &&
        sed -n '/^pcrs:/,$p' "$work/events" | sed -n "/$1:/,/sha[0-9]*[^0-9]*$/p" | values >"$work/replayed" &&
        tpm2 pcrread "$1:0,1,2,3,4,5,6,7,8,9" | values >"$work/read" &&
        [ "$(wc -l <"$work/read")" = 10 ] &&
        cmp "$work/read" "$work/replayed" &&
        echo "$(grep -c EventNum "$work/events") events of $(wc -c <"$log") bytes replay to PCR 0 to 9"
}

command_line_is_measured() {
    grep -q "kernel_cmdline: .*husk.script=event-log" "$log" && echo "the log has the command line"
}

# The banks of a new TPM, and no others.
banks_are_allocated() {
    tpm2 getcap pcrs >"$work/banks" &&
        [ "$(grep -c '\[ *0,' "$work/banks")" = 2 ] && grep -q 'sha256: *\[ *0,' "$work/banks" && grep -q 'sha384: *\[ *0,' "$work/banks" &&
        echo "sha256 and sha384"
}

step banks-are-allocated banks_are_allocated
step event-log-sha256 replays sha256
step event-log-sha384 replays sha384
step event-log-command-line command_line_is_measured
finish
