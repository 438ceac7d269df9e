#!/bin/sh
# In the guests of the tests of what a volume can be: says on the serial console what this boot found, and powers off.
say() { echo "HUSK-GUEST: $*" > /dev/ttyS0; }
root=$(findmnt -n -o FSTYPE /)
kept=/var/lib/husk-kept
[ "$root" != overlay ] || kept=/etc/husk-kept
known=$kept/known
mkdir -p $kept
say "root $root"
say "mounted $(findmnt -n -o SOURCE,FSTYPE --source /dev/mapper/encrypted)"
say "beneath $(dmsetup table encrypted | cut -d' ' -f3)"
say "tags $(dmsetup table encrypted_dif | cut -d' ' -f3)"
boots=$(($(cat $kept/boots 2>/dev/null || echo 0) + 1))
echo "$boots" > $kept/boots
# Written at the second boot, so that somebody who compares the disk before and after knows where it lies.
[ "$boots" != 2 ] || head -c 8M /dev/urandom > $known
sync
if [ "$boots" -gt 1 ]; then
    echo 3 > /proc/sys/vm/drop_caches
    say "begins $(head -c 64K $known 2>&1 | sha256sum)"
    say "holds $(sha256sum $known 2>&1)"
fi
say "again $(systemd-cryptenroll --unlock-tpm2-device=auto --recovery-key /dev/disk/by-partlabel/encrypted 2>&1 | tail -n 1)"
say "owner $(cat /etc/husk-owner 2>/dev/null)"
say "key-file $(ls /run/cryptsetup-keys.d 2>/dev/null)"
say "boot $boots"
say "pcr-15 $(tpm2_pcrread sha256:15 | awk '/0x/ { print $NF }')"
say "end"
systemctl --no-block poweroff
