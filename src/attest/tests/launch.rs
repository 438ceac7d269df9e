use super::{
    AttestFault, CONFIG_BYTES_MAX, DerivedKeyRequest, Kbs, LaunchConfig, Mode, Named, NvIndices, Serve,
    Staleness,
};
use sha2::{Digest as _, Sha256, Sha384};

const CONFIG: LaunchConfig = LaunchConfig {
    tenant: [0x1a; 16],
    vm: [0x2b; 16],
    root: [0x3c; 48],
    mode: Mode::Strict,
    serve: Serve::Lease,
    kbs: Kbs::None,
    min_key_generation: 7,
    processor: None,
    staleness: None,
    variables: None,
};

const STALENESS: Option<Staleness> = match NvIndices::new(0x0180_0000, 0x0180_00FF) {
    Some(indices) => Some(Staleness { commits: 1000, seconds: 1, indices }),
    None => None,
};

const PROCESSORS: [Option<DerivedKeyRequest>; 4] = [
    None,
    Some(DerivedKeyRequest { guest_svn: None, tcb: None }),
    Some(DerivedKeyRequest { guest_svn: Some(0), tcb: Some([0xA0; 8]) }),
    Some(DerivedKeyRequest { guest_svn: Some(u32::MAX), tcb: None }),
];

fn bytes(config: &LaunchConfig) -> ([u8; CONFIG_BYTES_MAX], usize) {
    let mut buffer = [0; CONFIG_BYTES_MAX];
    let len = config.write_to(&mut buffer).unwrap();
    (buffer, len)
}

#[test]
fn what_is_written_is_what_is_read() {
    for &mode in Mode::ALL {
        for (&serve, processor) in Serve::ALL.iter().zip(PROCESSORS) {
            for (&kbs, min_key_generation) in Kbs::ALL.iter().zip([0, u32::MAX]) {
                let staleness = STALENESS.filter(|_| min_key_generation == 0);
                let variables = Some([0x5C; 48]).filter(|_| kbs == Kbs::Required);
                let config = LaunchConfig { mode, serve, kbs, processor, staleness, variables, ..CONFIG };
                let config = LaunchConfig { min_key_generation, ..config };
                let (buffer, len) = bytes(&config);
                assert_eq!(LaunchConfig::parse(&buffer[..len]), Ok(config));
                assert_eq!(config.digest(), <[u8; 48]>::from(Sha384::digest(&buffer[..len])));
                assert_eq!(config.host_data(), <[u8; 32]>::from(Sha256::digest(&buffer[..len])));
            }
        }
    }
}

/// Whatever one byte becomes, goes or comes: refused, or the one spelling of another configuration.
#[test]
fn there_is_one_spelling() {
    let variables = Some([0x5C; 48]);
    let (buffer, len) =
        bytes(&LaunchConfig { processor: PROCESSORS[2], staleness: STALENESS, variables, ..CONFIG });
    let check = |changed: &[u8]| {
        if let Ok(other) = LaunchConfig::parse(changed) {
            let (again, again_len) = bytes(&other);
            assert_eq!(changed, &again[..again_len]);
        }
    };
    for at in 0..len {
        let mut changed = buffer;
        for value in 0..=u8::MAX {
            changed[at] = value;
            check(&changed[..len]);
        }
        check(&buffer[..at]);
        let mut longer = buffer;
        longer.copy_within(at..len, at + 1);
        for value in *b"\n\"0 a#=\0\r" {
            longer[at] = value;
            check(&longer[..len + 1]);
        }
        longer.copy_within(at + 1..len + 1, at);
    }
    assert!(LaunchConfig::parse(&buffer[..len + 1]).is_err());
}

#[test]
fn other_spellings_are_refused() {
    let (buffer, len) = bytes(&CONFIG);
    let text = core::str::from_utf8(&buffer[..len]).unwrap();
    for (from, to) in [
        ("\"7\"", "\"07\""),
        ("\"7\"", "\"+7\""),
        ("\"7\"", "\"\""),
        ("\"7\"", "\"4294967296\""),
        ("strict", "Strict"),
        ("\n[data]", "\n\n[data]"),
        ("husk.vm", "husk.tenant"),
        ("1a1a", "1A1A"),
    ] {
        let mut out = [0; CONFIG_BYTES_MAX];
        let at = text.find(from).unwrap();
        let parts = [&text[..at], to, &text[at + from.len()..]];
        let mut end = 0;
        for part in parts {
            out[end..end + part.len()].copy_from_slice(part.as_bytes());
            end += part.len();
        }
        assert_eq!(LaunchConfig::parse(&out[..end]), Err(AttestFault::ConfigMalformed), "{from} as {to}");
    }
    assert_eq!(LaunchConfig::parse(&[b' '; CONFIG_BYTES_MAX + 1]), Err(AttestFault::ConfigMalformed));
}

#[test]
fn only_host_data_binds_and_only_what_this_build_can_do() {
    let mut host_data = CONFIG.host_data();
    for serve in [Serve::Lease, Serve::PerCommand, Serve::Detect] {
        for (at, processor) in PROCESSORS.into_iter().enumerate() {
            let kbs = Kbs::ALL[at % Kbs::ALL.len()];
            let config = LaunchConfig { serve, processor, kbs, ..CONFIG };
            let bound = config.bind(&config.host_data()).map(super::BoundConfig::named);
            assert!(matches!(bound, Ok(Named::Anchored(named)) if *named.config() == config));
        }
    }
    let hw_sealed =
        LaunchConfig { mode: Mode::HwSealed, serve: Serve::Nothing, processor: PROCESSORS[1], ..CONFIG };
    let bound = hw_sealed.bind(&hw_sealed.host_data()).map(super::BoundConfig::named);
    assert!(matches!(bound, Ok(Named::HwSealed(named)) if *named.config() == hw_sealed));
    host_data[31] ^= 1;
    assert_eq!(CONFIG.bind(&host_data), Err(AttestFault::ConfigUnbound));
    for config in [
        LaunchConfig { kbs: Kbs::Required, ..hw_sealed },
        LaunchConfig { serve: Serve::Nothing, ..CONFIG },
        LaunchConfig { serve: Serve::Detect, staleness: STALENESS, ..CONFIG },
        LaunchConfig { serve: Serve::PerCommand, staleness: STALENESS, ..CONFIG },
        LaunchConfig { staleness: STALENESS, ..hw_sealed },
        LaunchConfig { processor: None, ..hw_sealed },
        LaunchConfig { serve: Serve::Lease, ..hw_sealed },
        LaunchConfig { serve: Serve::Detect, ..hw_sealed },
    ] {
        assert_eq!(config.bind(&config.host_data()), Err(AttestFault::ConfigUnsupported));
    }
}
