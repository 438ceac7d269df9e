#!/bin/sh
# Makes the volume if there is none. By the key file what was made is known again; nobody keeps it.
set -eu
umask 077
# The kernel image names the volume that its owner made beforehand.
[ ! -e /usr/lib/volume.name ] || cp /usr/lib/volume.name /run/volume.signed
key=/run/volume.key
head -c 64 /dev/random > $key
made=yes
! grep -qsx PARTNAME=@VOLUME@ /sys/class/block/*/uevent || made=no
systemd-repart --dry-run=no --key-file=$key @SEALED_TO@
if [ $made = yes ]; then
    udevadm settle
    volume=/dev/disk/by-partlabel/@VOLUME@
    /usr/libexec/name-volume $volume $key
    # The file's slot is the first, and would be tried at each boot before the TPM's.
    cryptsetup luksKillSlot --batch-mode $volume 0
fi
rm $key
