#!/bin/sh
# name-volume DEVICE KEY-FILE: what PCR 15 will hold when the volume is open that was just made there and that the key opens. The header is read once: the host could exchange it meanwhile.
set -eu
umask 077
header=/run/volume.header key=/run/volume.key.raw
head -c 16777216 "$1" > $header
# A key slot in clear would open with any key, to a key of the host's.
ciphers=$(cryptsetup luksDump --dump-json-metadata $header | sed -n 's/.*"encryption": *"\([^"]*\)".*/\1/p')
for cipher in ${ciphers:-none}; do
    [ "$cipher" = aes-xts-plain64 ] || {
        echo "the volume is refused: it was exchanged while it was made ($cipher)" >&2
        exit 1
    }
done
cryptsetup luksDump --batch-mode --dump-volume-key --volume-key-file $key --key-file "$2" $header > /dev/null
# systemd-cryptsetup(8) of systemd 257: PCR 15 is extended by an HMAC of the volume's name under its key.
printf 'cryptsetup:@VOLUME@:%s' "$(cryptsetup luksUUID $header)" |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$(od -An -v -tx1 $key | tr -d ' \n')" -binary > /run/volume.measured
head -c 32 /dev/zero | cat - /run/volume.measured | openssl dgst -sha256 -binary > /run/volume.name
rm $header $key /run/volume.measured
