//! The program of the target `broker_unlock`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| husk_fuzz::run("broker_unlock", data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    husk_fuzz::by_hand("broker_unlock")
}
