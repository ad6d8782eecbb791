//! The host's budget against a list of what should be there, and rows against the adapter they are of.

use std::sync::Arc;

use meteora_core::peft::{parse, Adapter, Limits, MemoryTensor, SiteShape, Source};
use meteora_core::registry::{GateKind, Registry};
use meteora_core::tiers::arena::BLOCK_ALIGN;
use meteora_core::tiers::host::{HostTier, Hosted};
use meteora_core::tiers::packed::GateForm;
use meteora_core::{Error, Result};
use proptest::prelude::*;

use super::{info, registry};

const PATH: &str = "model.layers.0.mlp.up_proj";

fn sites() -> Vec<SiteShape> {
    vec![SiteShape {
        path: PATH.to_owned(),
        in_features: 40,
        out_features: 30,
        layer: Some(0),
    }]
}

/// An adapter of this rank; its elements count up from `first`.
fn adapter(name: &str, rank: usize, first: u32) -> Adapter {
    let tensor = |half: &str, shape: [usize; 2]| MemoryTensor {
        name: format!("base_model.model.{PATH}.lora_{half}.weight"),
        dtype: "F32".to_owned(),
        shape: shape.to_vec(),
        data: (0..shape[0] * shape[1])
            .flat_map(|at| ((first + at as u32) as f32).to_le_bytes())
            .collect(),
    };
    let config =
        format!(r#"{{"peft_type": "LORA", "r": {rank}, "lora_alpha": 4, "target_modules": "all-linear"}}"#);
    let source = Source::Memory {
        config_json: &config,
        tensors: vec![tensor("A", [rank, 40]), tensor("B", [30, rank])],
    };
    parse(name, source, &sites(), &Limits::default()).unwrap()
}

fn store(
    host: &HostTier,
    registry: &Registry,
    adapter: &Adapter,
    has_source: bool,
    stays: &[&str],
) -> Result<()> {
    let gate = |site: usize, row: &mut [f32]| {
        row.fill(adapter.max_rank as f32);
        GateForm {
            bias: site as f32 + 0.5,
            sign_free: true,
        }
    };
    let hosted = Hosted {
        packed: host.pack(adapter, &sites(), |name| stays.contains(&name), gate)?,
        need: registry.need(adapter.max_rank, adapter.dtypes[0]),
        info: info(),
        generation: None,
        has_source,
        gate_changes: 0,
    };
    host.insert(&adapter.name, hosted);
    Ok(())
}

#[test]
fn rows_are_as_the_pools_hold_them() {
    let host = HostTier::new(1 << 20).unwrap();
    let adapter = adapter("a", 3, 7);
    store(&host, &registry(1), &adapter, true, &[]).unwrap();
    let packed = host.get("a").unwrap().packed;
    let module = packed.modules().next().unwrap();
    assert_eq!((module.site, module.rank, module.scaling), (0, 3, 4.0 / 3.0));
    assert_eq!(module.a, &*adapter.modules[0].a);
    let element = |bytes: &[u8], at: usize| f32::from_le_bytes(bytes[at * 4..at * 4 + 4].try_into().unwrap());
    for row in 0..3 {
        for column in 0..30 {
            let transposed = element(module.b, row * 30 + column);
            assert_eq!(transposed, element(&adapter.modules[0].b, column * 3 + row));
        }
    }
    let mut row = [0.0; 40];
    let form = packed.gate(0, &mut row);
    assert_eq!((form.bias, form.sign_free), (0.5, true));
    assert_eq!(row, [3.0; 40]);
    packed.set_gates(|_, row| {
        row[39] = -1.0;
        GateForm::default()
    });
    assert_eq!(packed.gate(0, &mut row), GateForm::default());
    assert!(row[..39].iter().all(|&value| value == 0.0) && row[39] == -1.0);
}

#[test]
fn the_error_says_what_is_needed_free_and_bound() {
    let (host, registry) = (HostTier::new(4 * BLOCK_ALIGN).unwrap(), registry(4));
    store(&host, &registry, &adapter("memory", 8, 0), false, &[]).unwrap();
    store(&host, &registry, &adapter("folder", 1, 0), true, &[]).unwrap();
    let before = host.stats();
    let result = store(&host, &registry, &adapter("new", 30, 0), true, &["folder"]);
    let bytes = 4 * BLOCK_ALIGN;
    let text = result.unwrap_err().to_string();
    let expected = format!(
        "adapter \"new\" does not fit: needs {bytes} host bytes, free 0 of {}",
        4 * BLOCK_ALIGN
    );
    assert!(text.starts_with(&expected), "{text}");
    assert!(
        text.contains(&format!("pinned {}; ", 4 * BLOCK_ALIGN)) && text.ends_with("raise host_bytes"),
        "{text}"
    );
    assert_eq!(host.stats(), before);
    assert_eq!(host.names(), ["folder", "memory"]);
}

#[test]
fn what_is_being_copied_does_not_go() {
    let (host, registry) = (HostTier::new(2 * BLOCK_ALIGN).unwrap(), registry(4));
    store(&host, &registry, &adapter("a", 1, 0), true, &[]).unwrap();
    let copying = host.get("a").unwrap();
    assert!(matches!(
        store(&host, &registry, &adapter("b", 1, 0), true, &[]),
        Err(Error::Capacity { .. })
    ));
    drop(copying);
    store(&host, &registry, &adapter("b", 1, 0), true, &[]).unwrap();
    assert_eq!(host.names(), ["b"]);
}

#[test]
fn what_was_published_is_noted() {
    let host = HostTier::new(1 << 20).unwrap();
    store(&host, &registry(1), &adapter("a", 1, 0), true, &[]).unwrap();
    let mut fitted = info();
    fitted.gate = GateKind::Fitted;
    host.published("a", &fitted, 8);
    let hosted = host.get("a").unwrap();
    assert_eq!((hosted.info.gate, hosted.generation), (GateKind::Fitted, Some(8)));
    assert!(!hosted.can_leave(), "its rows are nowhere else");
    drop(hosted);
    assert!(host.forget("a") && !host.forget("a") && host.get("a").is_none());
    assert_eq!(host.stats().free, host.stats().total);
}

#[test]
fn new_gates_are_another_state_and_stay() {
    let (host, registry) = (HostTier::new(2 * BLOCK_ALIGN).unwrap(), registry(4));
    store(&host, &registry, &adapter("a", 1, 0), true, &[]).unwrap();
    let before = host.get("a").unwrap();
    assert!(before.is(&host.get("a").unwrap()));
    host.set_gates("a", &before, GateKind::Fitted, true, |_, row| {
        row.fill(9.0);
        GateForm::default()
    });
    let after = host.get("a").unwrap();
    assert!(!after.is(&before), "who was copying it finds out");
    let mut row = [0.0; 40];
    assert_eq!(after.packed.gate(0, &mut row), GateForm::default());
    assert_eq!((row, after.info.gate), ([9.0; 40], GateKind::Fitted));
    drop((before, after));
    let refused = store(&host, &registry, &adapter("b", 1, 0), true, &[]);
    assert!(refused.is_err(), "its rows are nowhere else");
}

#[derive(Debug, Clone)]
enum Step {
    Store { name: u8, rank: usize, can_leave: bool },
    Touch(u8),
    Forget(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..10, 1usize..24, prop::bool::weighted(0.9))
            .prop_map(|(name, rank, can_leave)| Step::Store { name, rank, can_leave }),
        2 => (0u8..10).prop_map(Step::Touch),
        1 => (0u8..10).prop_map(Step::Forget),
    ]
}

/// What should be there, the coldest first: name, rank, bytes, whether it can leave.
type Model = Vec<(u8, usize, usize, bool)>;

proptest! {
    #[test]
    fn as_a_list_has_it(steps in prop::collection::vec(step(), 0..60)) {
        // Large enough that holes never matter: only the budget and the order do.
        let (total, registry) = (14 * BLOCK_ALIGN, registry(1));
        let host = HostTier::new(total).unwrap();
        let mut model: Model = Vec::new();
        for step in steps {
            match step {
                Step::Store { name, rank, can_leave } => {
                    let adapter = adapter(&name.to_string(), rank, u32::from(name));
                    let stored = store(&host, &registry, &adapter, can_leave, &["0"]);
                    let goes = |each: &(u8, usize, usize, bool)| each.3 && each.0 != name && each.0 != 0;
                    while stored.is_ok() && !model.iter().all(|each| host.get(&each.0.to_string()).is_some()) {
                        let gone = model.iter().position(goes).expect("someone who may go");
                        let (gone, ..) = model.remove(gone);
                        prop_assert!(host.get(&gone.to_string()).is_none(), "{gone} was the coldest");
                    }
                    if stored.is_ok() {
                        model.retain(|each| each.0 != name);
                        let bytes = host.get(&name.to_string()).unwrap().packed.bytes();
                        model.push((name, rank, bytes, can_leave));
                    } else {
                        model.retain(|each| !goes(each));
                    }
                }
                Step::Touch(name) => {
                    host.touch([name.to_string().as_str()]);
                    if let Some(at) = model.iter().position(|each| each.0 == name) {
                        let each = model.remove(at);
                        model.push(each);
                    }
                }
                Step::Forget(name) => {
                    prop_assert_eq!(host.forget(&name.to_string()), model.iter().any(|each| each.0 == name));
                    model.retain(|each| each.0 != name);
                }
            }
            let stats = host.stats();
            prop_assert_eq!(stats.adapters, model.len());
            prop_assert_eq!(stats.total - stats.free, model.iter().map(|each| each.2).sum::<usize>());
            for &(name, rank, ..) in &model {
                let packed: Arc<_> = host.get(&name.to_string()).unwrap().packed;
                prop_assert_eq!(packed.modules().next().unwrap().rank, rank);
                let a = packed.modules().next().unwrap().a[..4].to_vec();
                prop_assert_eq!(a, f32::from(name).to_le_bytes().to_vec());
            }
        }
    }
}
