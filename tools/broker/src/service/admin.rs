//! Requests of tenants' operators.

use super::Service;
use crate::admin::signed::{self, Head};
use crate::admin::{Failure, Id, Request, VMS_MAX, refusal_shown, row_shown, standing_shown};
use crate::audit::exported;
use crate::ids::{TenantId, VmId, VmName};
use crate::kbs::is_path;
use crate::policy::Policy;
use crate::store::{Admission, Asked, Enrolment, GroupError, KeptUnlock, Serving, StoreError};
use crate::unlock::{PcrPolicy, is_name};
use crate::vault::RESOURCE_BYTES_MAX;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use husk::release::wire::UNLOCK_SECRET_BYTES_MAX;
use serde_json::{Value, json};
use zeroize::Zeroizing;

impl Service {
    /// What a request is made from: which broker this is, and its clock.
    ///
    /// # Errors
    /// [`Failure::Unavailable`].
    pub fn admin_greeting(&self) -> Result<Value, Failure> {
        let time_ms = self.kept(Serving::now_ms)?;
        Ok(json!({ "broker": hex::encode(self.keys.broker()), "time_ms": time_ms }))
    }

    /// Does what a signed request asks, once.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn admin(&self, bytes: &[u8]) -> Result<Value, Failure> {
        let mut word = "unread";
        let said = self.asked(bytes, &mut word);
        self.count(|metrics| {
            metrics.tenant_request(word, said.as_ref().map_or_else(|why| why.word(), |_| "done"))
        });
        said
    }

    /// As [`admin`](Self::admin); `word` becomes that of the request, once it is one.
    fn asked(&self, bytes: &[u8], word: &mut &'static str) -> Result<Value, Failure> {
        let (head, json) = signed::parsed(bytes).ok_or(Failure::Malformed)?;
        let tenant = self.authenticated(&head, json)?;
        let asked = Asked {
            generation: head.certificate.generation.get(),
            nonce: head.nonce,
            time_ms: head.time_ms.get(),
        };
        match self.kept(|serving| serving.admit(tenant, &asked))? {
            Admission::Admitted => {}
            Admission::Revoked => return Err(Failure::Revoked),
            Admission::Stale => return Err(Failure::Stale),
            Admission::Replayed => return Err(Failure::Replayed),
            Admission::TooMany => return Err(Failure::TooMany),
        }
        let request: Request = serde_json::from_slice(json).map_err(|_| Failure::Malformed)?;
        *word = request.word();
        let allowed = request.right().is_none_or(|right| head.certificate.orders.get() & right.bit() != 0);
        if allowed { self.perform(tenant, request) } else { Err(Failure::NotAllowed) }
    }

    /// Whose request it is. A tenant that is not known costs what a known one does: one look, and both signatures, under a key that never
    /// certified anybody.
    fn authenticated(&self, head: &Head, json: &[u8]) -> Result<TenantId, Failure> {
        let id = TenantId(head.certificate.tenant);
        let root = match self.kept(|serving| serving.store().tenant(id)) {
            Ok(tenant) => Some(tenant.root),
            Err(Failure::Unknown) => None,
            Err(other) => return Err(other),
        };
        let holds = head.holds(root.as_ref().unwrap_or(self.keys.signing().point()), json);
        let is_asked = head.broker == self.keys.broker();
        if holds & is_asked & root.is_some() { Ok(id) } else { Err(Failure::Unknown) }
    }

    fn perform(&self, tenant: TenantId, request: Request) -> Result<Value, Failure> {
        let name = |id: Id| VmName { tenant, vm: id.0 };
        if let Request::Enroll { policy, .. } | Request::Policy { policy, .. } = &request
            && policy.contradiction().is_some()
        {
            return Err(Failure::Malformed);
        }
        match request {
            Request::Tenant {} => self.tenant_shown(tenant),
            Request::Vms { after } => self.vms_shown(tenant, after.map(|id| id.0)),
            Request::Vm { vm } => self.vm_shown(&name(vm)),
            Request::Enroll { vm, host_data, policy } => {
                let enrolment = Enrolment { host_data, policy };
                self.kept(|serving| serving.change(|store| store.enrol_own(&name(vm), &enrolment)))
                    .map(|()| json!({}))
            }
            Request::Policy { vm, policy } => self.amended(&name(vm), |demanded| *demanded = policy),
            Request::Allow { vm, measurement } => self.amended(&name(vm), |policy| {
                policy.measurements.retain(|known| *known != measurement.0);
                policy.measurements.push(measurement.0);
            }),
            Request::Forbid { vm, measurement } => self.amended(&name(vm), |policy| {
                policy.measurements.retain(|known| *known != measurement.0);
            }),
            Request::Audit { after } => self.log_shown(tenant, after),
            Request::Resources { vm } => {
                self.kept(|serving| serving.store().resources(&name(vm))).map(|paths| json!(paths))
            }
            Request::PutResource { vm, path, content, replace } => {
                self.put_resource(&name(vm), &path, &Zeroizing::new(content), replace)
            }
            Request::RemoveResource { vm, path } => self
                .kept(|serving| serving.change(|store| store.remove_resource(&name(vm), &path)))
                .map(|()| json!({})),
            Request::Unlocks { vm } => self.unlocks_shown(&name(vm)),
            Request::PutUnlock { vm, name: called, policy, secret, replace } => {
                self.put_unlock(&name(vm), (&called, &policy), &Zeroizing::new(secret), replace)
            }
            Request::RemoveUnlock { vm, name: called } => self
                .kept(|serving| serving.change(|store| store.remove_unlock(&name(vm), &called)))
                .map(|()| json!({})),
        }
    }

    fn tenant_shown(&self, tenant: TenantId) -> Result<Value, Failure> {
        let known = self.kept(|serving| serving.store().tenant(tenant))?;
        Ok(json!({ "tenant": tenant.to_string(), "root": hex::encode(known.root) }))
    }

    fn vms_shown(&self, tenant: TenantId, after: Option<VmId>) -> Result<Value, Failure> {
        let after = after.map(|vm| vm.0);
        let vms = self.kept(|serving| serving.store().vms_after(tenant, after, VMS_MAX))?;
        Ok(vms.iter().map(|(name, row)| row_shown(name, row)).collect())
    }

    fn vm_shown(&self, vm: &VmName) -> Result<Value, Failure> {
        let standing = self.kept(|serving| serving.standing(vm))?;
        let refusal = self.kept(|serving| serving.store().last_refusal(vm))?;
        let mut value = standing_shown(vm, &standing);
        value["last_refusal"] = refusal_shown(refusal);
        Ok(value)
    }

    fn amended(&self, vm: &VmName, change: impl FnOnce(&mut Policy)) -> Result<Value, Failure> {
        let policy = self.kept(|serving| serving.change(|store| store.amend(vm, change)))?;
        Ok(json!({ "tenant": vm.tenant.to_string(), "vm": vm.vm.to_string(), "policy": policy }))
    }

    fn log_shown(&self, tenant: TenantId, after: u64) -> Result<Value, Failure> {
        let entries = self.kept(|serving| serving.store().audit(tenant, after))?;
        let lines = entries.iter().map(|(entry, head)| exported(tenant, entry, head));
        let lines = lines.collect::<Result<Vec<_>, _>>().map_err(|_| Failure::Unavailable)?;
        Ok(json!({ "lines": lines, "last": entries.last().map(|(entry, _)| entry.number) }))
    }

    fn put_resource(&self, vm: &VmName, path: &str, content: &str, replace: bool) -> Result<Value, Failure> {
        if !is_path(path) {
            return Err(Failure::Malformed);
        }
        let content = BASE64_STANDARD.decode(content).map(Zeroizing::new).map_err(|_| Failure::Malformed)?;
        if content.len() > RESOURCE_BYTES_MAX {
            return Err(Failure::TooLong);
        }
        let sealed = self.keys.wrap_resource(&*self.world, vm, path, &content);
        let sealed = sealed.map_err(|_| Failure::Unavailable)?;
        self.kept(|serving| serving.change(|store| store.keep_resource(vm, path, &sealed, replace)))
            .map(|()| json!({}))
    }

    fn unlocks_shown(&self, vm: &VmName) -> Result<Value, Failure> {
        let kept = self.kept(|serving| serving.store().unlocks(vm))?;
        Ok(kept.iter().map(|kept| json!([kept.name, kept.policy.to_string()])).collect())
    }

    fn put_unlock(
        &self,
        vm: &VmName,
        (name, policy): (&str, &str),
        secret: &str,
        replace: bool,
    ) -> Result<Value, Failure> {
        let policy: PcrPolicy = policy.parse().map_err(|_| Failure::Malformed)?;
        let secret = BASE64_STANDARD.decode(secret).map(Zeroizing::new).map_err(|_| Failure::Malformed)?;
        if secret.len() > UNLOCK_SECRET_BYTES_MAX {
            return Err(Failure::TooLong);
        }
        if !is_name(name) || secret.is_empty() {
            return Err(Failure::Malformed);
        }
        let sealed = self.keys.wrap_unlock(&*self.world, vm, (name, &policy), &secret);
        let sealed = sealed.map_err(|_| Failure::Unavailable)?;
        let kept = KeptUnlock { name: name.to_owned(), policy, sealed };
        self.kept(|serving| serving.change(|store| store.keep_unlock(vm, &kept, replace))).map(|()| json!({}))
    }

    /// What the store says, as a tenant is told it; the rest is the log's.
    fn kept<T>(&self, ask: impl FnOnce(&mut Serving) -> Result<T, StoreError>) -> Result<T, Failure> {
        let said = self.group.serving().and_then(|mut serving| Ok(ask(&mut serving)?));
        said.map_err(|error| match &error {
            GroupError::Store(inner) => failure(inner).unwrap_or_else(|| unavailable(&error)),
            GroupError::Dead => unavailable(&error),
        })
    }
}

fn unavailable(error: &GroupError) -> Failure {
    tracing::error!("a tenant's request was not done: {error}");
    Failure::Unavailable
}

fn failure(error: &StoreError) -> Option<Failure> {
    match error {
        StoreError::UnknownTenant(_) => Some(Failure::Unknown),
        StoreError::UnknownVm(_) => Some(Failure::UnknownVm),
        StoreError::UnknownResource(_) => Some(Failure::UnknownResource),
        StoreError::UnknownUnlock(_) => Some(Failure::UnknownUnlock),
        StoreError::VmExists(_) => Some(Failure::VmExists),
        StoreError::ResourceExists(_) => Some(Failure::ResourceExists),
        StoreError::UnlockExists(_) => Some(Failure::UnlockExists),
        StoreError::ResourcesFull | StoreError::UnlocksFull | StoreError::VmsFull => Some(Failure::Full),
        _ => None,
    }
}
