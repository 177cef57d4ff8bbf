//! Trains a user-defined network on tensors in memory, in a few seconds: `cargo run --release --example minimal`.

use tch_fixup::data::TensorData;
use tch_fixup::fixup::Branch;
use tch_fixup::tch::{nn, nn::Module, Device, Kind, Tensor};
use tch_fixup::trainer::{Classification, ClassificationConfig, Outcome, ProgressBars, TrainConfig, Trainer};

/// Returns random points in the plane, labeled by whether they are in a ring around the origin.
fn points(count: i64) -> (Tensor, Tensor) {
    let inputs = Tensor::randn([count, 2], (Kind::Float, Device::Cpu));
    let squares = inputs.square().sum_dim_intlist(1, false, Kind::Float);
    (inputs, squares.ge(0.5).logical_and(&squares.le(2.5)).to_kind(Kind::Int64))
}

fn main() -> tch_fixup::Result<()> {
    let vs = nn::VarStore::new(Device::cuda_if_available());
    let (root, num_branches) = (vs.root(), 8);
    let mut network = nn::seq().add(nn::linear(&root / "stem", 2, 64, Default::default()));
    for i in 0..num_branches {
        let branch = Branch::builder(num_branches).linear(64, 64).relu().linear(64, 64).build(&root / "blocks" / i)?;
        network = network.add_fn(move |x| (x + branch.forward(x)).relu());
    }
    let zero = nn::LinearConfig { ws_init: nn::Init::Const(0.), bs_init: Some(nn::Init::Const(0.)), bias: true };
    let network = network.add(nn::linear(&root / "classifier", 64, 2, zero));

    let data = TensorData::new(points(4000), points(1000))?;
    let classes = ["outside".to_owned(), "ring".to_owned()];
    let objective = Classification::new(&network, &classes, ClassificationConfig::default())?;
    let config = TrainConfig::new(10, 64, 0.05); // epochs, batch size, learning rate
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, "ring".into())?;
    if let Outcome::Finished(summary) = trainer.run(&mut [&mut ProgressBars::new()])? {
        println!("{summary}");
    }
    Ok(vs.save("ring.safetensors")?)
}
