# The kernel's two devices over whatever QEMU puts in front of the TPM: commands one after the other over /dev/tpm0, many
# clients at once over the resource manager's /dev/tpmrm0, and what a reset of the machine keeps and what it clears.
# The first time it resets the machine; it runs again then.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/reset.sh"

# TPM2_CreatePrimary of an ECDSA P-256 key for the owner, as bytes; TPM2_ReadPublic without its handle.
create=80020000004100000131400000010000000940000009000000000000040000000000180023000b0004007200000010
create=${create}0018000b0003001000000000000000000000
read_public=80010000000e00000173

# Without a manager, what a client leaves in the TPM stays there.
raw_device() (
    export TPM2TOOLS_TCTI=device:/dev/tpm0
    tpm2 createprimary -Q -C o -G ecc -c "$work/raw" &&
        [ "$(tpm2 getcap handles-transient | grep -c 0x80)" -ge 1 ] &&
        tpm2 flushcontext -t &&
        [ "$(tpm2 getcap handles-transient | grep -c 0x80)" = 0 ] &&
        tpm2 flushcontext -l &&
        echo "an object stays until it is flushed"
)

# With one, it goes with its client.
managed_device() {
    tpm2 createprimary -Q -C o -G ecc -c "$work/managed" &&
        [ "$(tpm2 getcap handles-transient | grep -c 0x80)" = 0 ] &&
        tpm2 readpublic -Q -c "$work/managed" &&
        TPM2TOOLS_TCTI=device:/dev/tpm0 tpm2 getcap handles-transient >"$work/left" &&
        [ "$(grep -c 0x80 "$work/left")" = 0 ] &&
        echo "an object goes with its client, its context stays"
}

# One command on file descriptor $1; prints the response as hex.
exchange() {
    printf "$(echo "$2" | sed 's/../\\x&/g')" >&"$1" && dd bs=4096 count=1 <&"$1" 2>/dev/null | od -An -v -tx1 | tr -d ' \n'
}

# The response code in a response.
code() {
    echo "$1" | cut -c 13-20
}

# The TPM has three slots, and so has each client of the manager, which swaps.
six_objects_of_two_clients() {
    exec 3<>/dev/tpmrm0 4<>/dev/tpmrm0 || return 1
    for client in 3 4 3 4 3 4; do
        made=$(exchange $client "$create")
        [ "$(code "$made")" = 00000000 ] || { echo "create: $made"; return 1; }
        echo "$client $(echo "$made" | cut -c 21-28)"
    done >"$work/handles"
    [ "$(sort -u "$work/handles" | grep -c .)" = 6 ] || { cat "$work/handles"; return 1; }
    while read -r client handle; do
        public=$(exchange "$client" "$read_public$handle")
        [ "$(code "$public")" = 00000000 ] || { echo "read $client $handle: $public"; return 1; }
    done <"$work/handles"
    [ "$(code "$(exchange 3 "$create")")" = 00000902 ] || { echo "a client has a fourth slot"; return 1; }
    exec 3>&- 4>&-
    echo "three of each: $(tr '\n' ' ' <"$work/handles")"
}

# Unseals, signs and draws random numbers, over and over.
client() {
    for _ in 1 2; do
        [ "$(tpm2 unseal -c "$work/sealed" -p pcr:sha256:23)" = "$secret" ] &&
            tpm2 sign -Q -c "$work/signer" -g sha256 -o "$work/signature.$1" "$work/message" &&
            tpm2 verifysignature -Q -c "$work/signer" -g sha256 -m "$work/message" -s "$work/signature.$1" &&
            tpm2 getrandom -Q -o "$work/random.$1" 16 || return 1
    done
    touch "$work/client.$1"
}

many_clients_at_once() {
    printf message >"$work/message"
    tpm2 createprimary -Q -C o -G ecc -c "$work/parent" &&
        tpm2 create -Q -C "$work/parent" -G ecc:ecdsa -u "$work/pub" -r "$work/priv" &&
        tpm2 load -Q -C "$work/parent" -u "$work/pub" -r "$work/priv" -c "$work/signer" &&
        tpm2 createpolicy -Q --policy-pcr -l sha256:23 -L "$work/policy" &&
        printf %s "$secret" | tpm2 create -Q -C "$work/parent" -L "$work/policy" -i - -u "$work/pub" -r "$work/priv" &&
        tpm2 load -Q -C "$work/parent" -u "$work/pub" -r "$work/priv" -c "$work/sealed" || return 1
    for number in 1 2 3 4; do client $number & done
    wait
    for number in 1 2 3 4; do [ -e "$work/client.$number" ] || { echo "client $number failed"; return 1; }; done
    echo "four clients with a session and two objects each"
}

step pcr-zero-at-power-on cleared
step raw-device raw_device
step managed-device managed_device
step six-objects six_objects_of_two_clients
step many-clients many_clients_at_once
reset_or_finish
