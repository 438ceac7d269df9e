//! Boots one after the other, anchors from many VMs at once, and what both took.

use crate::client::{Launch, Vm};
use crate::site::{Kind, Site};
use anyhow::anyhow;
use std::time::{Duration, Instant};

/// How anchors are sent.
pub(crate) struct Plan {
    pub(crate) clients: usize,
    pub(crate) rows: u32,
    /// Together, evenly; as fast as each is answered if not given.
    pub(crate) per_second: Option<f64>,
    pub(crate) run: Duration,
}

/// What was measured.
pub(crate) struct Outcome {
    kind: Kind,
    what: &'static str,
    clients: usize,
    rows: u32,
    pub(crate) per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of all brokers, for each of them.
    cpu_us: f64,
}

impl Outcome {
    pub(crate) fn heading() -> String {
        format!(
            "{:<12} {:<8} {:>7} {:>7} {:>10} {:>8} {:>8} {:>14}",
            "database", "what", "clients", "rows", "a second", "p50 ms", "p99 ms", "broker CPU µs"
        )
    }

    pub(crate) fn line(&self) -> String {
        let Self { what, clients, rows, per_second, p50_ms, p99_ms, cpu_us, .. } = self;
        let database = self.database();
        format!(
            "{database:<12} {what:<8} {clients:>7} {rows:>7} {per_second:>10.0} {p50_ms:>8.2} {p99_ms:>8.2} {cpu_us:>14.0}"
        )
    }

    /// One object on one line. Of names and numbers that are ours, so nothing needs escaping.
    pub(crate) fn json(&self) -> String {
        let Self { what, clients, rows, per_second, p50_ms, p99_ms, cpu_us, .. } = self;
        let database = self.database();
        format!(
            r#"{{"database":"{database}","what":"{what}","clients":{clients},"rows":{rows},"per_second":{per_second:.1},"p50_ms":{p50_ms:.3},"p99_ms":{p99_ms:.3},"broker_cpu_us":{cpu_us:.1}}}"#
        )
    }

    fn database(&self) -> String {
        match self.kind {
            Kind::Sqlite => "sqlite".to_owned(),
            Kind::Postgres(instances) => format!("postgres x{instances}"),
        }
    }

    fn of(
        site: &Site,
        plan: (&'static str, usize, u32),
        mut times: Vec<Duration>,
        took: (Duration, u64),
    ) -> Self {
        let (what, clients, rows) = plan;
        let (wall, cpu_ms) = took;
        times.sort_unstable();
        let at = |percent: usize| {
            times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        let count = f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX));
        Self {
            kind: site.kind,
            what,
            clients,
            rows,
            per_second: count / wall.as_secs_f64(),
            p50_ms: at(50),
            p99_ms: at(99),
            cpu_us: Duration::from_millis(cpu_ms).as_secs_f64() * 1e6 / count,
        }
    }
}

/// Boots `count` new VMs, in one line.
pub(crate) fn boots(
    site: &Site,
    count: usize,
    rows: u32,
    show: impl FnOnce(&Outcome),
) -> anyhow::Result<Vec<Vm>> {
    let mut launches = Vec::new();
    for number in 0..count {
        let config = site.enrol(rows.wrapping_mul(1000).wrapping_add(u32::try_from(number)?))?;
        launches.push(Launch::new(site, number, config)?);
    }
    let (mut vms, mut times) = (Vec::new(), Vec::new());
    let (started, cpu_ms) = (Instant::now(), site.cpu_ms()?);
    for launch in launches {
        let started = Instant::now();
        vms.push(launch.boot()?);
        times.push(started.elapsed());
    }
    let took = (started.elapsed(), site.cpu_ms()? - cpu_ms);
    show(&Outcome::of(site, ("boots", 1, rows), times, took));
    Ok(vms)
}

/// Anchors from the first VMs of `vms`.
pub(crate) fn anchors(site: &Site, vms: &mut [Vm], plan: &Plan) -> anyhow::Result<Outcome> {
    let clients = plan.clients.min(vms.len());
    let pause = plan.per_second.map(|rate| Duration::from_secs_f64(plan.clients as f64 / rate));
    let (started, cpu_ms) = (Instant::now(), site.cpu_ms()?);
    let times: anyhow::Result<Vec<Vec<Duration>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(&mut vms[..clients])
            .map(|(number, vm)| scope.spawn(move || one(vm, number, started, (plan.run, pause, clients))))
            .collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a client died"))?).collect()
    });
    let took = (started.elapsed(), site.cpu_ms()? - cpu_ms);
    let what = if plan.per_second.is_some() { "paced" } else { "anchors" };
    Ok(Outcome::of(site, (what, clients, plan.rows), times?.concat(), took))
}

/// One VM's part. Where it keeps a pace, it counts from when an anchor was due, so that waiting for the one before
/// counts too.
fn one(
    vm: &mut Vm,
    number: u32,
    started: Instant,
    (run, pause, clients): (Duration, Option<Duration>, usize),
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let share = f64::from(number) / clients as f64;
    let mut due = pause.map(|pause| started + pause.mul_f64(share));
    while started.elapsed() < run {
        let mut from = Instant::now();
        if let (Some(due), Some(pause)) = (&mut due, pause) {
            std::thread::sleep(due.saturating_duration_since(from));
            from = *due;
            *due += pause;
        }
        vm.anchor()?;
        times.push(from.elapsed());
    }
    Ok(times)
}
