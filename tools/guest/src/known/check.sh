#!/bin/sh
# Is what was opened the volume that this TPM knows? Its header is the host's word: whoever knows the TPM's public key can make one that opens.
set -eu
umask 077
volume=@VOLUME@
# TCG, "Registry of Reserved TPM 2.0 Handles and Localities": indices of the TPM's owner.
index=0x1800100
# Bits of TPMA_NV (TPM 2.0 Part 2, 13.4): POLICYWRITE, WRITEDEFINE, AUTHREAD and NO_DA; then WRITTEN too; then WRITELOCKED too.
defined=0x2042008 written=0x22042008 locked=0x22042808
cd "${RUNTIME_DIRECTORY:?}"

refuse() {
    echo "the volume is refused: $*" >&2
    exit 1
}

# A session by which the index is written: firmware and Secure Boot's keys as they are, and nothing given to the kernel image beside what is signed.
session() {
    tpm2_startauthsession -Q -S session "$@"
    tpm2_policypcr -Q -S session -l @PCRS@ -L policy
}

# A line of what the TPM says of the index.
public() {
    tpm2_nvreadpublic $index 2>/dev/null | sed -n "s/^ *$1: //p" | tail -n 1
}

table=$(dmsetup table $volume)
set -- $table
[ "$(echo "$table" | wc -l) ${3-} ${4-} ${5%%:logon:*}" = "1 crypt @CIPHER@ :@KEY_BYTES@" ] ||
    refuse "it is not encrypted as this guest does it (${3-} ${4-})"
tpm2_pcrread -Q -o measured sha256:15
if [ -e /run/volume.signed ]; then
    cmp -s measured /run/volume.signed || refuse "it is not the one that the kernel image names"
    exit
fi
session
tpm2_flushcontext session
state=$(public value)
if [ -e /run/volume.name ]; then
    cmp -s measured /run/volume.name || refuse "it is not the one that this boot made"
    case $state in
    '') tpm2_nvdefine -Q -s 32 -a 'policywrite|writedefine|authread|no_da' -L policy $index ;;
    $defined) ;;
    *) refuse "it is new, and this TPM knows another one" ;;
    esac
    session --policy-session
    tpm2_nvwrite -Q -C $index -P session:session -i measured $index
    tpm2_flushcontext session
    rm /run/volume.name
    state=$(public value)
fi
[ -n "$state" ] && [ "$state" != $defined ] || refuse "this TPM knows none, and this boot made none"
[ "$(public 'authorization policy')" = "$(od -An -v -tx1 policy | tr -d ' \n' | tr a-f A-F)" ] && [ "$(public size)" = 32 ] ||
    refuse "what this TPM knows was written by somebody else"
if [ "$state" = $written ]; then
    session --policy-session
    tpm2_nvwritelock -Q -C $index -P session:session $index
    tpm2_flushcontext session
    state=$(public value)
fi
[ "$state" = $locked ] || refuse "what this TPM knows was written by somebody else"
tpm2_nvread -Q -s 32 -o known $index
cmp -s measured known || refuse "this TPM knows another one"
