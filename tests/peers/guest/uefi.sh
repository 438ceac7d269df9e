# Below a UEFI firmware: what the layer measured before it, and what it measured itself, together replay to the PCRs that the TPM has.
# The script runs twice, with a reset of the machine between.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/reset.sh"

own=/sys/kernel/security/tpm0/binary_bios_measurements
# The layer's events lie in an ACPI table, behind its header of 36 bytes.
before=/sys/firmware/acpi/tables/OEMH

# Lines of `number value` from what tpm2-tools print of a bank.
values() {
    tr A-F a-f | sed -n 's/^ *\([0-9][0-9]*\) *: *0x\([0-9a-f]*\)$/\1 \2/p'
}

# One log: the layer's, then the firmware's without the event that names the hashes.
both_logs() {
    mount -t securityfs none /sys/kernel/security 2>/dev/null
    tail -c +37 "$before" >"$work/log" && cat "$own" >"$work/own" || return 1
    size=$(od -An -v -t u4 -j 28 -N 4 "$work/own")
    tail -c +$((32 + size + 1)) "$work/own" >>"$work/log"
}

replays() {
    both_logs &&
        tpm2 eventlog "$work/log" >"$work/events" &&
        sed -n '/^pcrs:/,$p' "$work/events" | sed -n "/$1:/,/sha[0-9]*[^0-9]*$/p" | values >"$work/replayed" &&
        tpm2 pcrread "$1:0,1,2,3,4,5,6,7,8,9" | values >"$work/read" &&
        [ "$(wc -l <"$work/read")" = 10 ] &&
        cmp "$work/read" "$work/replayed" &&
        echo "$(grep -c EventNum "$work/events") events replay to PCR 0 to 9"
}

firmware_measures() {
    both_logs && tpm2 eventlog "$work/own" >"$work/events" || return 1
    for kind in EV_S_CRTM_VERSION EV_EFI_PLATFORM_FIRMWARE_BLOB EV_EFI_VARIABLE_DRIVER_CONFIG \
        EV_SEPARATOR EV_EFI_BOOT_SERVICES_APPLICATION; do
        grep -q "$kind" "$work/events" || { echo "no $kind"; return 1; }
    done
    echo "$(grep -c EventNum "$work/events") events of the firmware's own"
}

layer_measures() {
    tail -c +37 "$before" >"$work/layers" && tpm2 eventlog "$work/layers" >"$work/events" || return 1
    for kind in EV_S_CRTM_VERSION EV_S_CRTM_CONTENTS EV_EFI_PLATFORM_FIRMWARE_BLOB EV_PLATFORM_CONFIG_FLAGS EV_IPL; do
        grep -q "$kind" "$work/events" || { echo "no $kind"; return 1; }
    done
    grep -q "kernel_cmdline: .*husk.script=uefi" "$work/layers" || { echo "no command line"; return 1; }
    echo "$(grep -c EventNum "$work/events") events of the layer's"
}

by_uefi() {
    [ -d /sys/firmware/efi ] && dmesg | grep -m 1 'efi: EFI v'
}

# What is the layer's is no memory of this guest, by its own map.
memory_ends_at_the_layer() {
    while read -r line; do
        range=${line%% :*}
        start=$((0x${range%-*})) end=$((0x${range#*-}))
        [ $end -lt $((0x10000000)) ] || [ $start -ge $((0x100000000)) ] || { echo "$line"; return 1; }
    done <<LINES
$(grep 'System RAM' /proc/iomem)
LINES
    grep MemTotal /proc/meminfo
}

processors() {
    [ "$(grep -c ^processor /proc/cpuinfo)" = "${HUSK_CPUS:-1}" ] && echo "as many as were given"
}

step by-uefi by_uefi
step pcr-zero-at-power-on cleared
step layer-measures layer_measures
step firmware-measures firmware_measures
step event-log-sha256 replays sha256
step event-log-sha384 replays sha384
step memory-ends-at-the-layer memory_ends_at_the_layer
step processors processors
step never-late never_late
reset_or_finish
