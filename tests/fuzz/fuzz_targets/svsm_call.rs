//! The program of the target `svsm_call`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| husk_fuzz::run("svsm_call", data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    husk_fuzz::by_hand("svsm_call")
}
