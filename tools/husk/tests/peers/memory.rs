//! Capabilities, PCRs, NV indices, Clear.

use crate::stack::Serving;
use crate::{clock, counter, field, nv};
use std::fs;

const PLAIN: &str = "ownerread|ownerwrite|authread|authwrite";
/// SHA-256 of 64 zero bytes: 32 of a PCR at reset, 32 extended into it.
const ZEROS_EXTENDED: &str = "F5A5FD42D16A20302798EF6ED309979B43003D2320D9F0E8EA9831A92759FB4B";

pub(crate) fn says_what_it_is(tpm: &Serving<'_>) {
    let fixed = tpm.run_line("getcap properties-fixed");
    assert!(fixed.contains("TPM2_PT_FAMILY_INDICATOR") && fixed.contains("\"2.0\""), "{fixed}");
    let variable = tpm.run_line("getcap properties-variable");
    for wanted in ["phEnable", "shEnable", "ehEnable"] {
        assert_eq!(field(&variable, wanted), "1");
    }
    for listing in ["algorithms", "commands", "pcrs", "ecc-curves"] {
        assert!(tpm.run_line(&format!("getcap {listing}")).len() > 20, "{listing}");
    }
    assert_eq!(tpm.run_line("getcap handles-persistent").trim(), "");
    let draws: Vec<String> = (0..2).map(|_| tpm.run_line("getrandom --hex 16").trim().to_owned()).collect();
    assert!(draws[0].len() == 32 && draws[0] != draws[1], "{draws:?}");
    tpm.run_line("selftest --fulltest");
    assert!(clock(tpm).reset_count > 0);
}

pub(crate) fn measures(tpm: &Serving<'_>) {
    let zero = "00".repeat(32);
    tpm.run_line("pcrreset 23");
    assert!(tpm.run_line("pcrread sha256:23").contains(&zero));
    tpm.run_line(&format!("pcrextend 23:sha256={zero}"));
    assert!(tpm.run_line("pcrread sha256:23").contains(ZEROS_EXTENDED));
    fs::write(tpm.path("event"), b"an event").unwrap();
    let before = tpm.run_line("pcrread sha256:16");
    assert!(tpm.run_line("pcrevent 16 event").contains("sha256"));
    assert_ne!(tpm.run_line("pcrread sha256:16"), before);
    assert!(tpm.run_line("hash -g sha256 --hex event").trim().len() == 64);
}

pub(crate) fn keeps_indices_of_every_kind(tpm: &Serving<'_>) {
    plain(tpm);
    counts(tpm);
    bits_and_digests(tpm);
    let public = tpm.run_line("nvreadpublic");
    for index in ["0x1500001", "0x1500002", "0x1500003", "0x1500004"] {
        assert!(public.contains(index), "{public}");
        tpm.run_line(&format!("nvundefine {index} -C o"));
    }
    assert_eq!(tpm.run_line("nvreadpublic").trim(), "");
}

fn plain(tpm: &Serving<'_>) {
    tpm.run_line(&format!("nvdefine 0x1500001 -C o -s 32 -p secret -a {PLAIN}"));
    fs::write(tpm.path("content"), b"thirty-two bytes of some content").unwrap();
    tpm.run_line("nvwrite 0x1500001 -C o -i content");
    assert_eq!(nv(tpm, "0x1500001"), b"thirty-two bytes of some content");
    fs::write(tpm.path("content"), b"THIRTY").unwrap();
    tpm.run_line("nvwrite 0x1500001 -C 0x1500001 -P secret --offset 0 -i content");
    assert_eq!(nv(tpm, "0x1500001"), b"THIRTY-two bytes of some content");
    tpm.refused("nvread 0x1500001 -C 0x1500001 -P guess");
    tpm.refused("nvdefine 0x1500001 -C o -s 32");
}

fn counts(tpm: &Serving<'_>) {
    tpm.run_line("nvdefine 0x1500002 -C o -s 8 -a ownerread|ownerwrite|nt=counter");
    tpm.refused("nvread 0x1500002 -C o");
    tpm.run_line("nvincrement 0x1500002 -C o");
    let first = counter(tpm, "0x1500002");
    for more in 1..=5 {
        tpm.run_line("nvincrement 0x1500002 -C o");
        assert_eq!(counter(tpm, "0x1500002"), first + more);
    }
}

fn bits_and_digests(tpm: &Serving<'_>) {
    tpm.run_line("nvdefine 0x1500003 -C o -s 8 -a ownerread|ownerwrite|nt=bits");
    tpm.run_line("nvsetbits 0x1500003 -C o -i 0x5");
    tpm.run_line("nvsetbits 0x1500003 -C o -i 0x8000000000000000");
    assert_eq!(nv(tpm, "0x1500003"), 0x8000_0000_0000_0005_u64.to_be_bytes());
    tpm.run_line("nvdefine 0x1500004 -C o -g sha256 -a ownerread|ownerwrite|nt=extend");
    tpm.run_line("nvextend 0x1500004 -C o -i event");
    let once = nv(tpm, "0x1500004");
    tpm.run_line("nvextend 0x1500004 -C o -i event");
    assert!(once.len() == 32 && nv(tpm, "0x1500004") != once);
}

/// TPM2_Clear takes the owner's things away and starts the count of resets anew.
pub(crate) fn clears(tpm: &Serving<'_>) {
    tpm.run_line(&format!("nvdefine 0x1500001 -C o -s 32 -a {PLAIN}"));
    tpm.run_line("createprimary -C o -G ecc -c primary.ctx");
    tpm.run_line("evictcontrol -C o -c primary.ctx 0x81000001");
    assert!(tpm.run_line("getcap handles-persistent").contains("0x81000001"));
    let before = fs::read(public_of(tpm, "0x81000001")).unwrap();
    tpm.run_line("clear -c p");
    assert_eq!(tpm.run_line("getcap handles-persistent").trim(), "");
    assert_eq!(tpm.run_line("nvreadpublic").trim(), "");
    assert_eq!(clock(tpm).reset_count, 0);
    tpm.run_line("createprimary -C o -G ecc -c primary.ctx");
    assert_ne!(fs::read(public_of(tpm, "primary.ctx")).unwrap(), before, "the seed is another");
}

fn public_of(tpm: &Serving<'_>, object: &str) -> std::path::PathBuf {
    tpm.run_line(&format!("readpublic -c {object} -o public"));
    tpm.path("public")
}
