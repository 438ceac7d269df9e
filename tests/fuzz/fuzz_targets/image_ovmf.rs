//! The program of the target `image_ovmf`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| husk_fuzz::run("image_ovmf", data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    husk_fuzz::by_hand("image_ovmf")
}
