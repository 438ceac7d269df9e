# Below the image with a disk whose controller could be a bus master: the data go both ways by instructions, and it never is one.
. "$(dirname "$0")/lib.sh"

here=$(dirname "$0")
disk=/dev/sda
# The controller, where the launcher puts it.
controller=/sys/bus/pci/devices/0000:00:12.0/config

disk_found() {
    for module in scsi_common scsi_mod libata ata_piix sd_mod; do
        insmod "$here/$module.ko" || return 1
    done
    for _ in $(seq 100); do
        [ -b "$disk" ] && break
        sleep 0.1
    done
    [ -b "$disk" ] && echo "$(cat /sys/block/sda/size) sectors"
}

# Neither controller nor drive says that it transfers anything by itself, so the driver asks for nothing of the kind.
programmed() {
    dmesg | grep -q 'BAR4 is zero, falling back to PIO' || { dmesg | grep ata; return 1; }
    ! dmesg | grep -E 'ata.*(U|MW)DMA' && dmesg | grep -m 1 'ata1.00: ATA.*max PIO'
}

# Every number of four bytes on the disk is its own place.
reads() {
    dd if=$disk of="$work/read" bs=64k 2>/dev/null
    [ "$(wc -c <"$work/read")" = 8388608 ] || return 1
    for at in 0 1 127 128 4095 65536 1048575 2097151; do
        number=$(od -An -v -t u4 -j $((at * 4)) -N 4 "$work/read" | tr -d ' ')
        [ "$number" = "$at" ] || { echo "$number at $at"; return 1; }
    done
    echo "8 MiB"
}

writes() {
    yes 'what the guest wrote' | head -c 1048576 >"$work/written"
    dd if="$work/written" of=$disk bs=64k seek=96 conv=fsync 2>/dev/null || return 1
    echo 3 >/proc/sys/vm/drop_caches
    dd if=$disk of="$work/again" bs=64k skip=96 count=16 2>/dev/null
    cmp "$work/written" "$work/again" && echo "1 MiB, and read again"
}

register() {
    od -An -v -t u1 -j "$1" -N 1 $controller | tr -d ' '
}

# What a driver would do to have the controller write memory: nothing of it counts.
never_a_bus_master() {
    [ $(($(register 4) & 4)) = 0 ] || { echo "it is one"; return 1; }
    printf '\007' | dd of=$controller bs=1 seek=4 conv=notrunc 2>/dev/null
    printf '\001\300\000\000' | dd of=$controller bs=1 seek=32 conv=notrunc 2>/dev/null
    [ $(($(register 4) & 4)) = 0 ] && [ "$(register 32)" = 0 ] && echo "neither the bit nor the ports of its transfers"
}

# After all that it is the disk that it was.
again() {
    echo 3 >/proc/sys/vm/drop_caches
    dd if=$disk bs=64k count=16 2>/dev/null | cmp -n 1048576 - "$work/read" && echo "its first MiB"
}

tpm_goes_on() {
    tpm2 getrandom --hex 16
}

step disk-found disk_found
step programmed-io programmed
step disk-reads reads
step disk-writes writes
step never-a-bus-master never_a_bus_master
step disk-reads-again again
step tpm-goes-on tpm_goes_on
step never-late never_late
finish
