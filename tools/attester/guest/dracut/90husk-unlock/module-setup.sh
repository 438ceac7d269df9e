#!/bin/bash
# dracut: volumes whose keys a broker gives. Takes along what is enabled here by `systemctl enable husk-unlock@NAME.service`.

husk_enabled() {
    local link
    for link in "${dracutsysrootdir-}"/etc/systemd/system/systemd-cryptsetup@*.service.requires/husk-unlock@*.service; do
        [[ -L $link ]] && printf '%s\n' "$link"
    done
}

# Only where somebody asked for it.
check() {
    require_binaries husk-unlock || return 1
    [[ -n $(husk_enabled) ]] || return 255
    return 0
}

depends() {
    echo systemd crypt tpm2-tss
}

# The serial lines are the kernel's own; a virtio port is not always.
installkernel() {
    hostonly='' instmods virtio_console tpm_crb tpm_tis
}

install() {
    local link
    inst_multiple husk-unlock /etc/husk/unlock/config
    inst_multiple -o /etc/husk/unlock/options
    inst_simple "${systemdsystemunitdir:?}/husk-unlock@.service"
    while read -r link; do
        link=${link#"${dracutsysrootdir-}"}
        mkdir -p "${initdir:?}${link%/*}"
        ln -sfn "$systemdsystemunitdir/husk-unlock@.service" "$initdir$link"
    done < <(husk_enabled)
}
