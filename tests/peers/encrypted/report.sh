#!/bin/sh
# In the guest of the test: says on the serial console what this boot found, and powers off.
say() { echo "HUSK-GUEST: $*" > /dev/ttyS0; }
say "mounted $(findmnt -n -o SOURCE,FSTYPE /var)"
say "beneath $(dmsetup table encrypted 2>/dev/null | cut -d' ' -f3)"
say "owner $(cat /var/lib/owner 2>/dev/null)"
boots=$(($(cat /var/lib/husk-boots 2>/dev/null || echo 0) + 1))
echo "$boots" > /var/lib/husk-boots
sync
say "boot $boots"
for pcr in 2 3 4 6 7 8 11 12 13 14 15; do
    say "pcr-$pcr $(tpm2_pcrread "sha256:$pcr" | awk '/0x/ { print $NF }')"
done
say "swap $(awk 'NR > 1 { print $1 }' /proc/swaps)"
# What a host could make by itself, for it takes no more than this TPM's public key: a credential by which a unit has more lines.
lines='[Service]
ExecStartPre=/bin/sh -c "echo HUSK-GUEST: planted > /dev/ttyS0"'
say "credential $(echo "$lines" | systemd-creds encrypt --with-key=tpm2 --tpm2-pcrs= --name=systemd.unit-dropin.report.service - - | tr -d '\n')"
say "end"
systemctl --no-block poweroff
