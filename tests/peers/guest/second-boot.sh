# A later boot: what the first boot put into the TPM, and what `hammer` had acknowledged, is there.
# HUSK_COUNTER_MIN, HUSK_PROGRESS_MIN: the last numbers that were acknowledged. HUSK_KEY_NAME, HUSK_RESET_COUNT: the
# first boot's values. All optional.
. "$(dirname "$0")/lib.sh"

nv_index() {
    [ "$(tpm2 nvread -C o -s ${#content} "$index")" = "$content" ] && echo "the content is the first boot's"
}

# A write may have reached the TPM without its answer reaching the guest: one more than acknowledged is right too.
counter_kept() {
    now=$(counter_now) && echo "counter $now, acknowledged ${HUSK_COUNTER_MIN:-nothing}" || return 1
    [ -z "${HUSK_COUNTER_MIN:-}" ] || [ "$now" -eq "$HUSK_COUNTER_MIN" ] || [ "$now" -eq $((HUSK_COUNTER_MIN + 1)) ]
}

progress_kept() {
    now=$(tpm2 nvread -C o -s 8 "$progress" | sed 's/^0*//') && echo "progress $now, acknowledged $HUSK_PROGRESS_MIN" || return 1
    [ "$now" -eq "$HUSK_PROGRESS_MIN" ] || [ "$now" -eq $((HUSK_PROGRESS_MIN + 1)) ]
}

key_kept() {
    now=$(name_of "$primary") && [ "$now" = "${HUSK_KEY_NAME:-$now}" ] && echo "its name is the first boot's"
}

locked_before_extend() {
    refused tpm2 unseal -Q -c "$sealed" -p pcr:sha256:23 2>/dev/null && echo "refused under PCR 23 as it was at power-on"
}

unsealed() {
    tpm2 pcrextend "$extend" &&
        [ "$(tpm2 unseal -c "$sealed" -p pcr:sha256:23)" = "$secret" ] &&
        echo "under the same PCR 23 as on the first boot"
}

locked_after_extend() {
    tpm2 pcrextend "$extend" &&
        refused tpm2 unseal -Q -c "$sealed" -p pcr:sha256:23 2>/dev/null &&
        echo "refused under another PCR 23"
}

reset_counted() {
    tpm2 readclock >"$work/clock" || return 1
    now=$(sed -n 's/.*reset_count: *//p' "$work/clock")
    echo "resetCount $now, before ${HUSK_RESET_COUNT:-unknown}"
    [ -z "${HUSK_RESET_COUNT:-}" ] || [ "$now" -gt "$HUSK_RESET_COUNT" ]
}

step nv-index-kept nv_index
step nv-counter-kept counter_kept
[ -z "${HUSK_PROGRESS_MIN:-}" ] || step nv-progress-kept progress_kept
step key-kept key_kept
step sealed-before-extend locked_before_extend
step unseals unsealed
step sealed-after-extend locked_after_extend
step reset-counted reset_counted
value counter "$(counter_now)"
value key-name "$(name_of "$primary")"
clock_values
finish
