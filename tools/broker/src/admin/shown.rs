//! What is shown of a VM: nothing secret is in a row.

use crate::ids::VmName;
use crate::rules::{Keeps, Life, Row};
use crate::store::Standing;
use serde_json::{Value, json};

/// A life's word.
#[must_use]
pub const fn life_word(life: Life) -> &'static str {
    match life {
        Life::Virgin => "virgin",
        Life::Active => "active",
        Life::Halted => "halted",
        Life::Retired => "retired",
    }
}

/// A row's life, and where its TPM ends with each launch that.
#[must_use]
pub const fn life_of(row: &Row) -> &'static str {
    match (row.life, row.keeps) {
        (Life::Virgin, Keeps::Nothing) => "ephemeral",
        (life, _) => life_word(life),
    }
}

/// A row.
#[must_use]
pub fn row_shown(name: &VmName, row: &Row) -> Value {
    json!({
        "tenant": name.tenant.to_string(),
        "vm": name.vm.to_string(),
        "life": life_of(row),
        "generation": row.generation,
        "epoch": row.epoch,
        "token": row.token,
        "sequence": row.head.sequence,
        "digest": hex::encode(row.head.digest),
        "confirmed": row.next.is_none(),
        "released": row.released,
        "guest_svn": row.guest_svn,
    })
}

/// The newest refusal: when, and by which rule.
#[must_use]
pub fn refusal_shown(refusal: Option<(u64, String)>) -> Value {
    json!(refusal.map(|(at_ms, rule)| json!({ "at_ms": at_ms, "rule": rule })))
}

/// A row at a moment, and how its VM was enrolled.
#[must_use]
pub fn standing_shown(name: &VmName, standing: &Standing) -> Value {
    let Standing { row, enrolment, now_ms, .. } = standing;
    let until = |end_ms: u64| end_ms.saturating_sub(*now_ms);
    let mut value = row_shown(name, row);
    value["lease_ms"] = json!(if row.released { 0 } else { until(row.lease_until_ms) });
    value["overlap_ms"] = json!(until(row.overlap_until_ms));
    value["time_ms"] = json!(now_ms);
    value["host_data"] = json!(hex::encode(enrolment.host_data));
    value["policy"] = json!(enrolment.policy);
    value
}
