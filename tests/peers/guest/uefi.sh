# Below a UEFI firmware: what the layer measured before it, and what it measured itself, together replay to the PCRs that the TPM has.
# Its variables are in the flash that the layer keeps. The script runs three times: behind a reset of the machine, and in another machine.
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

# A variable of this guest's own: written the first time, in the flash and behind a reset and a power-off ever after.
variables=/sys/firmware/efi/efivars
own_variable=$variables/HuskPeer-4c2f3e5e-6c8e-4b9c-9f0a-3b7d5a1c2e10
# Attributes first: non-volatile, of boot and run time (UEFI 2.10, section 8.2 "GetVariable").
variable_content='\007\000\000\000what the guest wrote on its first boot'

variable_kept() {
    insmod /husk/efivarfs.ko 2>/dev/null
    mount -t efivarfs none "$variables" 2>/dev/null
    ls "$variables" | grep -q "^SecureBoot-" || { echo "the firmware shows no variables"; return 1; }
    printf "$variable_content" >"$work/variable"
    if tpm2 getcap handles-nv-index | grep -q -i "${across#0x0}"; then
        cmp "$own_variable" "$work/variable" && echo "the variable is there; $(ls "$variables" | wc -l) in all"
    else
        [ ! -e "$own_variable" ] && cat "$work/variable" >"$own_variable" &&
            cmp "$own_variable" "$work/variable" && echo "a variable is written, among $(ls "$variables" | wc -l)"
    fi
}

# The tenant's own keys are enrolled, and what was started is signed by them: PCR 7 holds that it was.
secure_boot() {
    enabled=$(tail -c 1 "$variables"/SecureBoot-* | od -An -t u1) && [ "$enabled" -eq 1 ] || { echo "SecureBoot is $enabled"; return 1; }
    tpm2 eventlog "$work/own" >"$work/events" && grep -q EV_EFI_VARIABLE_AUTHORITY "$work/events" ||
        { echo "PCR 7 names no authority"; return 1; }
    dmesg | grep -i -m 1 -E 'secure ?boot' || { echo "the kernel does not know"; return 1; }
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

# Its driver takes ACPI's global lock, by the mailbox that the firmware gives the system: one that nobody may write to is waited for in vain.
configuration_device() {
    insmod /husk/qemu_fw_cfg.ko && cat /sys/firmware/qemu_fw_cfg/rev
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
step variable variable_kept
step secure-boot secure_boot
step configuration-device configuration_device
step never-late never_late
reset_or_finish
