#!/bin/sh
# Makes, fills and encrypts the volume where the disk is built. Arguments: triples of a file's mode, its name in /tmp and its path in the volume, up to `--`; then systemd-repart's line.
# What is in the open is in memory: keys in /run, files in /build/volume, the file system that systemd-repart makes of them in /tmp.
set -eu
umask 077
mount -t tmpfs tmpfs /run
mkdir -p /build/volume
mount -t tmpfs tmpfs /build/volume
chmod 755 /build/volume
while [ "$1" != -- ]; do
    (umask 022 && install -D --mode="$1" "/tmp/$2" "/build/volume/$3")
    shift 3
done
shift
@DRAWN@
"$@" --key-file=/run/key

set -- $(partx --bytes --raw --noheadings --output START,SIZE,NAME /build/disk.raw | grep ' @VOLUME@$')
# The front of it, where the header is, with nothing behind but a length.
dd if=/build/disk.raw of=/run/front bs=512 skip="$1" count=32768 status=none
truncate --size="$2" /run/front
/build/name-volume /run/front /run/key
@SLOT@
dd if=/run/front of=/build/disk.raw bs=512 seek="$1" count=32768 conv=notrunc status=none
# An initrd of its own: the kernel image's signature covers it as it does the other.
mkdir -p /build/name/usr/lib
cp /run/volume.name /build/name/usr/lib/volume.name
cd /build/name
find . -exec touch --date="@$SOURCE_DATE_EPOCH" {} +
find . | LC_ALL=C sort | cpio --quiet --reproducible --create --format=newc > /build/name.cpio
