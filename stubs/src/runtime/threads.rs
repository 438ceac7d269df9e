//! POSIX threads, of which there is one.

use super::world::trap;
use super::{EAGAIN, EINVAL};
use core::ffi::{c_int, c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

/// libcrypto makes about ten; more than glibc's least (`_POSIX_THREAD_KEYS_MAX`) is not asked for.
const KEYS_MAX: usize = 128;

static VALUES: [AtomicPtr<c_void>; KEYS_MAX] = [const { AtomicPtr::new(ptr::null_mut()) }; KEYS_MAX];
static KEYS: AtomicU32 = AtomicU32::new(0);

fn value(key: c_uint) -> Option<&'static AtomicPtr<c_void>> {
    let made = key < KEYS.load(Relaxed);
    VALUES.get(usize::try_from(key).ok()?).filter(|_| made)
}

/// A lock's state, in the first bytes of the memory that C sets aside for it: readers, or a writer.
type Lock = i32;
const WRITTEN: Lock = -1;

macro_rules! c {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block)+) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// Of the C function of that name.
        #[cfg_attr(target_os = "none", unsafe(no_mangle))]
        pub(super) unsafe extern "C" fn $name($($argument: $type),*) -> $result $body
    )+};
}

c! {
    /// `pthread_self`: the only one.
    fn pthread_self() -> usize {
        1
    }

    /// `pthread_once`
    fn pthread_once(control: *mut c_int, routine: unsafe extern "C" fn()) -> c_int {
        // SAFETY: a control variable that C initialised to 0.
        if unsafe { control.replace(1) } == 0 {
            // SAFETY: as C demands.
            unsafe { routine() };
        }
        0
    }

    /// `pthread_key_create`; the thread never ends, so destructors are never due.
    fn pthread_key_create(key: *mut c_uint, _destructor: *const c_void) -> c_int {
        let next = KEYS.load(Relaxed);
        if usize::try_from(next).is_ok_and(|next| next >= KEYS_MAX) {
            return EAGAIN;
        }
        KEYS.store(next + 1, Relaxed);
        // SAFETY: valid for a write.
        unsafe { key.write(next) };
        0
    }

    /// `pthread_key_delete`; the number is not used again.
    fn pthread_key_delete(key: c_uint) -> c_int {
        let Some(value) = value(key) else { return EINVAL };
        value.store(ptr::null_mut(), Relaxed);
        0
    }

    /// `pthread_getspecific`
    fn pthread_getspecific(key: c_uint) -> *mut c_void {
        value(key).map_or(ptr::null_mut(), |value| value.load(Relaxed))
    }

    /// `pthread_setspecific`
    fn pthread_setspecific(key: c_uint, to: *mut c_void) -> c_int {
        let Some(value) = value(key) else { return EINVAL };
        value.store(to, Relaxed);
        0
    }

    /// `pthread_rwlock_init`
    fn pthread_rwlock_init(lock: *mut Lock, _attributes: *const c_void) -> c_int {
        // SAFETY: memory for a lock, which has 56 bytes.
        unsafe { lock.write(0) };
        0
    }

    /// `pthread_rwlock_destroy`
    fn pthread_rwlock_destroy(_lock: *mut Lock) -> c_int {
        0
    }

    /// `pthread_rwlock_rdlock`: what would wait, would wait for ever.
    fn pthread_rwlock_rdlock(lock: *mut Lock) -> c_int {
        // SAFETY: a lock.
        let state = unsafe { lock.read() };
        if state == WRITTEN {
            trap("pthread_rwlock_rdlock");
        }
        // SAFETY: as above.
        unsafe { lock.write(state + 1) };
        0
    }

    /// `pthread_rwlock_wrlock`: likewise.
    fn pthread_rwlock_wrlock(lock: *mut Lock) -> c_int {
        // SAFETY: a lock.
        if unsafe { lock.replace(WRITTEN) } != 0 {
            trap("pthread_rwlock_wrlock");
        }
        0
    }

    /// `pthread_rwlock_unlock`
    fn pthread_rwlock_unlock(lock: *mut Lock) -> c_int {
        // SAFETY: a lock.
        let state = unsafe { lock.read() };
        if state == 0 {
            trap("pthread_rwlock_unlock");
        }
        // SAFETY: as above.
        unsafe { lock.write(if state == WRITTEN { 0 } else { state - 1 }) };
        0
    }
}

#[cfg(test)]
#[expect(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the calls are what is tested"
)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicUsize;

    #[test]
    fn a_routine_runs_once_and_keys_keep_their_values() {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        unsafe extern "C" fn routine() {
            RUNS.fetch_add(1, Relaxed);
        }
        let mut control = 0;
        let (mut one, mut other) = (0, 0);
        unsafe {
            pthread_once(&raw mut control, routine);
            pthread_once(&raw mut control, routine);
            assert_eq!(RUNS.load(Relaxed), 1);
            assert_eq!(pthread_key_create(&raw mut one, ptr::null()), 0);
            assert_eq!(pthread_key_create(&raw mut other, ptr::null()), 0);
            assert_eq!(pthread_setspecific(one, ptr::without_provenance_mut(16)), 0);
            assert_eq!(pthread_getspecific(one).addr(), 16);
            assert!(pthread_getspecific(other).is_null());
            assert_eq!(pthread_key_delete(one), 0);
            assert!(pthread_getspecific(one).is_null());
            assert_eq!(pthread_setspecific(1000, ptr::null_mut()), EINVAL);
        }
    }

    #[test]
    fn a_lock_is_taken_and_given_back() {
        let mut lock: Lock = 7;
        let lock = &raw mut lock;
        unsafe {
            pthread_rwlock_init(lock, ptr::null());
            pthread_rwlock_rdlock(lock);
            pthread_rwlock_rdlock(lock);
            pthread_rwlock_unlock(lock);
            pthread_rwlock_unlock(lock);
            pthread_rwlock_wrlock(lock);
            assert_eq!(lock.read(), WRITTEN);
            pthread_rwlock_unlock(lock);
            assert_eq!(lock.read(), 0);
            pthread_rwlock_destroy(lock);
        }
    }
}
