//! The program of the target `attest_frames`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| husk_fuzz::run("attest_frames", data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    husk_fuzz::by_hand("attest_frames")
}
