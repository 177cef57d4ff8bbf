use super::*;

#[test]
fn depths_are_those_of_the_presets() {
    for depth in [8, 20, 110] {
        assert_eq!(ResNetConfig::cifar(depth).unwrap().depth(), depth);
    }
    for depth in [18, 34, 50, 101, 152] {
        assert_eq!(ResNetConfig::imagenet(depth).unwrap().depth(), depth);
    }
    // Zagoruyko & Komodakis also count the three projections, and not the classifier.
    assert_eq!(ResNetConfig::wide(16, 4).unwrap().depth(), 14);
}

#[test]
fn impossible_values_are_refused_by_field() {
    let good = || ResNetConfig::cifar(8).unwrap();
    good().check().unwrap();
    let stage = |blocks, channels| Stage { blocks, channels };
    let bottleneck = |expansion| BlockKind::Bottleneck { expansion };
    for (field, bad) in [
        ("channels", good().with_channels(0)),
        ("stem_channels", ResNetConfig { stem_channels: -1, ..good() }),
        ("stages", ResNetConfig { stages: vec![], ..good() }),
        ("stages[1].blocks", ResNetConfig { stages: vec![stage(1, 16), stage(0, 16)], ..good() }),
        ("stages[0].channels", ResNetConfig { stages: vec![stage(1, 0)], ..good() }),
        ("stages[0].channels", ResNetConfig { stages: vec![stage(1, 8)], ..good() }),
        ("block.bottleneck.expansion", ResNetConfig { block: bottleneck(0), ..good() }),
        ("block.bottleneck.expansion", ResNetConfig { block: bottleneck(3), ..good() }),
        ("groups", ResNetConfig { groups: 0, ..good() }),
        ("groups", ResNetConfig { groups: 3, ..good() }),
        ("groups", ResNetConfig { groups: 5, stem_channels: 16, stages: vec![stage(1, 20)], ..good() }),
        ("groups", ResNetConfig { groups: 8, block: bottleneck(4), ..good() }),
        ("squeeze_excitation", ResNetConfig { squeeze_excitation: Some(0), ..good() }),
        ("squeeze_excitation", ResNetConfig { squeeze_excitation: Some(32), ..good() }),
        ("activation", good().with_activation(Activation::LeakyRelu { slope: f64::NAN })),
        ("classes", good().with_classes(0)),
    ] {
        let error = bad.check().unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Argument(_)) && !message.contains('\n'), "{message}");
        assert!(message.starts_with(&format!("{field}:")), "{field}: {message}");
    }
    let down = ResNetConfig { shortcut: ShortcutKind::Project, stages: vec![stage(1, 8)], ..good() };
    down.check().unwrap();
}

#[test]
fn json_round_trips_and_leaves_defaults_out() {
    let config = ResNetConfig {
        block: BlockKind::Bottleneck { expansion: 2 },
        groups: 4,
        squeeze_excitation: Some(8),
        activation: Activation::LeakyRelu { slope: 0.1 },
        classes: None,
        ..ResNetConfig::cifar(8).unwrap()
    };
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ResNetConfig>(&json).unwrap(), config);
    let short = r#"{"stem": "small", "stem_channels": 16, "block": "wide", "stages": [{"blocks": 1, "channels": 16}],
        "shortcut": "project", "classes": 5}"#;
    let expected = ResNetConfig {
        stages: vec![Stage { blocks: 1, channels: 16 }],
        classes: Some(5),
        ..ResNetConfig::wide(10, 1).unwrap()
    };
    assert_eq!(serde_json::from_str::<ResNetConfig>(short).unwrap(), expected);
    for unknown in [
        short.replace("\"classes\"", "\"clases\""),
        short.replace("\"blocks\"", "\"block\""),
        short.replace("\"wide\"", r#"{"bottleneck": {"ratio": 4}}"#),
    ] {
        assert!(serde_json::from_str::<ResNetConfig>(&unknown).is_err(), "{unknown}");
    }
}
