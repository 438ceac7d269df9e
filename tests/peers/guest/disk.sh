# Below the image with a disk: data go both ways by the guest's memory, the driver is told of every request, and finds nothing of the device below.
. "$(dirname "$0")/lib.sh"

here=$(dirname "$0")
disk=/dev/vda
# The function that PCI shows, in the slot where the launcher puts the device below it.
function=/sys/bus/pci/devices/0000:00:12.0

disk_found() {
    for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
        insmod "$here/$module.ko" || return 1
    done
    for _ in $(seq 100); do
        [ -b "$disk" ] && break
        sleep 0.1
    done
    [ -b "$disk" ] && echo "$(cat /sys/block/vda/size) sectors"
}

# A legacy device with one window of ports, an interrupt line and no capability; writes wait in a cache that can be flushed.
legacy() {
    [ "$(cat $function/vendor) $(cat $function/device)" = "0x1af4 0x1001" ] || { cat $function/device; return 1; }
    [ "$(cat /sys/block/vda/queue/write_cache)" = "write back" ] || return 1
    [ "$(grep -c -v '^0x0* 0x0* ' $function/resource)" = 1 ] && [ "$(register 52)" = 0 ] &&
        grep -m 1 virtio /proc/interrupts
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
    od -An -v -t u1 -j "$1" -N 1 $function/config | tr -d ' '
}

# Eight at a time, of which every one ends.
at_once() {
    for part in 0 1 2 3 4 5 6 7; do
        dd if=$disk of=/dev/null bs=4k skip=$((part * 256)) count=256 iflag=direct 2>/dev/null &
        parts="$parts $!"
    done
    for one in $parts; do
        wait "$one" || return 1
    done
    echo "8 MiB in 2048 requests"
}

# The driver goes and comes, and with it all that the device was told.
comes_back() {
    rmmod virtio_blk && [ ! -b "$disk" ] && insmod "$here/virtio_blk.ko" && [ -b "$disk" ]
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
step disk-is-of-the-legacy-interface legacy
step disk-reads reads
step disk-writes writes
step disk-at-once at_once
step disk-comes-back comes_back
step disk-reads-again again
step tpm-goes-on tpm_goes_on
step never-late never_late
finish
