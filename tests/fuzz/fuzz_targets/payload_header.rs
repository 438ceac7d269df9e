//! The program of the target `payload_header`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| husk_fuzz::run("payload_header", data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    husk_fuzz::by_hand("payload_header")
}
