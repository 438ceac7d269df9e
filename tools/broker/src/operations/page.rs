//! The page: every tenant's VMs, and the newest events. Everything that is shown is escaped where it is put in.

use crate::admin::life_of;
use crate::rules::Row;
use crate::store::{Overview, SeenVm};
use maud::{DOCTYPE, Markup, html};
use std::time::Duration;
use x509_cert::der::DateTime;

/// The page's style, which it loads from beside it.
pub(super) const STYLE: &str = include_str!("style.css");

/// How much of a head's digest is shown.
const DIGEST_DIGITS: usize = 16;

pub(super) fn page(overview: &Overview) -> String {
    let count = overview.vms.len();
    framed(&html! {
        p { "Clock of the database: " (overview.now_ms) " ms. VMs on this page: " (count) "." }
        table {
            caption { "VMs" }
            thead { tr {
                @for head in ["Tenant", "VM", "Life", "Generation", "Epoch", "Token", "Head", "Lease", "Last refusal"] {
                    th scope="col" { (head) }
                }
            } }
            tbody { @for vm in &overview.vms { (line(vm, overview.now_ms)) } }
        }
        @if let Some(next) = &overview.next {
            p { a href={ "/ui?after=" (next.tenant) "/" (next.vm) } { "More VMs" } }
        }
        (events(overview))
    })
}

/// Why there is nothing to show.
pub(super) fn failed(why: &str) -> String {
    framed(&html! { p.bad { (why) } })
}

fn framed(content: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Husk broker" }
                link rel="stylesheet" href="/ui/style.css";
            }
            body { h1 { "Husk broker" } (content) }
        }
    };
    page.into_string()
}

fn line(vm: &SeenVm, now_ms: u64) -> Markup {
    let refusal = vm.last_refusal.as_ref().map(|(at_ms, rule)| format!("{rule} (at {at_ms} ms)"));
    html! {
        tr {
            td.id { (vm.name.tenant) }
            td.id { (vm.name.vm) }
            @match &vm.row {
                Some(row) => (standing(row, now_ms)),
                None => td.bad colspan="6" { "its row is damaged; restore the database" },
            }
            td { (refusal.unwrap_or_default()) }
        }
    }
}

fn standing(row: &Row, now_ms: u64) -> Markup {
    let life = life_of(row);
    let digest: String = hex::encode(row.head.digest).chars().take(DIGEST_DIGITS).collect();
    html! {
        td class=(life) { (life) }
        td { (row.generation) }
        td { (row.epoch) }
        td { (row.token) }
        td.id { @if row.epoch > 0 { (row.head.sequence) " " (digest) "…" } @else { "none" } }
        td { (lease(row, now_ms)) }
    }
}

fn lease(row: &Row, now_ms: u64) -> String {
    let left_ms = row.lease_until_ms.saturating_sub(now_ms);
    match (row.holder.is_some(), row.next.is_some()) {
        _ if row.released => "released".to_owned(),
        _ if left_ms == 0 => "ended".to_owned(),
        (true, false) => format!("{left_ms} ms left"),
        (true, true) => format!("{left_ms} ms left of an older instance's; granted, not confirmed"),
        (false, _) => format!("{left_ms} ms left of a fenced instance's"),
    }
}

fn events(overview: &Overview) -> Markup {
    html! {
        table {
            caption { "Newest events of these tenants" }
            thead { tr {
                @for head in ["At", "Calendar of the broker", "Tenant", "Entry", "VM", "Event", "Detail"] {
                    th scope="col" { (head) }
                }
            } }
            tbody {
                @for (tenant, entry) in &overview.events {
                    tr {
                        td { (entry.at_ms) " ms" }
                        td { (calendar(entry.calendar_s)) }
                        td.id { (tenant) }
                        td { (entry.number) }
                        td.id { (entry.vm) }
                        td { (entry.event.word()) }
                        td { (entry.detail) }
                    }
                }
            }
        }
    }
}

/// A moment in UTC.
fn calendar(seconds: u64) -> String {
    DateTime::from_unix_duration(Duration::from_secs(seconds))
        .map_or_else(|_| format!("{seconds} s"), |moment| moment.to_string())
}
