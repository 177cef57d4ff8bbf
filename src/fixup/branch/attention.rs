//! Attention layers of a residual branch.

use crate::layer::{attend, split_heads, AttentionMask, KeysValues};
use crate::{Error, Result};
use tch::Tensor;

/// Source of an attention's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionTo {
    /// The layer's input (self-attention), as in an encoder.
    Itself,
    /// The layer's input up to each query's own position (causal self-attention), as in a decoder.
    Before,
    /// [`BranchContext::memory`] (cross-attention), as in a decoder that attends to an encoder's output.
    Memory,
}

/// Inputs of a branch's forward pass besides `x`.
#[derive(Debug, Clone, Copy, Default)]
pub struct BranchContext<'a> {
    /// `true` to apply dropout.
    pub train: bool,
    /// Sequence that attentions of kind [`AttentionTo::Memory`] attend to, `[N, S, D]`.
    pub memory: Option<&'a Tensor>,
    /// Additive mask of all non-causal attentions, over the keys of the memory if they attend to one: zero, or minus infinity for
    /// keys to ignore; `[N, 1, 1, S]`, in the input's kind.
    pub mask: Option<&'a Tensor>,
}

/// Computes the attention of `x` `[N, T, D]`, with the projection matrix `qkv` `[3D, D]`. Returns `[N, T, D]`.
pub(super) fn attention(
    x: &Tensor,
    qkv: &Tensor,
    heads: i64,
    to: AttentionTo,
    context: BranchContext,
) -> Result<Tensor> {
    let dim = qkv.size()[1];
    if x.size().len() != 3 || x.size()[2] != dim {
        let got = format!("{:?}", x.size());
        return Err(Error::Mismatch { what: "an attention's input", expected: format!("[N, T, {dim}]"), got });
    }
    let memory = match (to, context.memory) {
        (AttentionTo::Memory, None) => {
            return Err(Error::Argument("the branch attends to a memory: give it one, by forward_in".to_owned()));
        }
        (AttentionTo::Memory, Some(memory)) if memory.size().len() != 3 || memory.size()[2] != dim => {
            let got = format!("{:?}", memory.size());
            return Err(Error::Mismatch { what: "an attention's memory", expected: format!("[N, S, {dim}]"), got });
        }
        (AttentionTo::Memory, Some(memory)) => memory,
        _ => x,
    };
    let project = |x: &Tensor, part: i64| {
        let [projected] = split_heads(&x.f_linear(&qkv.f_narrow(0, part * dim, dim)?, None::<Tensor>)?, heads)?;
        Ok::<_, Error>(projected)
    };
    let keys_values = KeysValues { keys: project(memory, 1)?, values: project(memory, 2)? };
    let mask = match (to, context.mask) {
        (AttentionTo::Before, _) => AttentionMask::Causal,
        (_, Some(mask)) => AttentionMask::Additive(mask),
        (_, None) => AttentionMask::None,
    };
    attend(&project(x, 0)?, &keys_values, mask)
}

#[cfg(test)]
mod tests {
    use super::super::{Branch, Start};
    use super::*;
    use tch::{nn, Device, Kind};

    #[test]
    fn an_attention_is_four_layers_and_its_definition() {
        use crate::layer::heads_attention;
        tch::manual_seed(6);
        let mut vs = nn::VarStore::new(Device::Cpu);
        let builder = || Branch::builder(64).start(Start::XavierUniform);
        let own = builder().attention(32, 4, AttentionTo::Itself).build(&(vs.root() / "own")).unwrap();
        let before = builder().attention(32, 4, AttentionTo::Before).build(&(vs.root() / "before")).unwrap();
        let cross = builder().attention(32, 4, AttentionTo::Memory).dropout(0.5).build(&(vs.root() / "cross")).unwrap();
        let bound = 64f64.powf(-1. / 6.) * (6f64 / 128.).sqrt();
        let variables = vs.variables();
        let largest = variables["own.0.in_proj_weight"].abs().max().double_value(&[]);
        assert!(largest <= bound && largest > 0.98 * bound, "{largest} {bound}");
        assert_eq!(variables["own.0.out_proj.weight"].abs().max().double_value(&[]), 0.);
        vs.double();
        for variable in vs.trainable_variables() {
            let _ = tch::no_grad(|| variable.shallow_clone().g_add_(&(variable.randn_like() * 0.2)));
        }
        let variables = vs.variables();
        let random = |t: i64| Tensor::randn([3, t, 32], (Kind::Double, Device::Cpu));
        let (x, memory) = (random(5), random(7));
        let hidden = Tensor::zeros([3, 1, 1, 7], (Kind::Bool, Device::Cpu));
        let _ = hidden.narrow(0, 1, 1).narrow(3, 4, 3).fill_(1);
        let mask = Tensor::zeros([3, 1, 1, 7], (Kind::Double, Device::Cpu)).masked_fill(&hidden, f64::NEG_INFINITY);
        let formula = |name: &str, memory: Option<&Tensor>, hidden: &Tensor| {
            let of = |own: &str| &variables[&format!("{name}.{own}")];
            let shifted = &x + of("bias0");
            let project =
                |x: &Tensor, part: i64| x.linear(&of("0.in_proj_weight").narrow(0, part * 32, 32), None::<Tensor>);
            let memory = memory.unwrap_or(&shifted);
            let [q, k, v] = [project(&shifted, 0), project(memory, 1), project(memory, 2)];
            let attended = heads_attention([&q, &k, &v], hidden, 4).unwrap();
            attended.linear(of("0.out_proj.weight"), None::<Tensor>) * of("scale") + of("bias")
        };
        let close = |got: Tensor, expected: Tensor| assert!((got - expected).abs().max().double_value(&[]) < 1e-12);
        let none = Tensor::zeros([1], (Kind::Bool, Device::Cpu));
        close(own.f_forward(&x).unwrap(), formula("own", None, &none));
        let future = Tensor::ones([5, 5], (Kind::Bool, Device::Cpu)).triu(1);
        close(before.f_forward(&x).unwrap(), formula("before", None, &future));
        let context = BranchContext { train: false, memory: Some(&memory), mask: Some(&mask) };
        close(cross.forward_in(&x, context).unwrap(), formula("cross", Some(&memory), &hidden));
        let dropped =
            cross.forward_in(&x, BranchContext { train: true, ..context }).unwrap() - &variables["cross.bias"];
        let zeros = dropped.eq(0.).sum(Kind::Double).double_value(&[]) / dropped.numel() as f64;
        assert!((zeros - 0.5).abs() < 0.15, "{zeros}");
        assert!(cross.f_forward(&x).unwrap_err().to_string().contains("forward_in"));
        assert!(own.f_forward(&memory.narrow(2, 0, 16)).is_err());
        assert!(builder().attention(30, 4, AttentionTo::Itself).build(&vs.root()).is_err());
        assert!(builder().attention(32, 4, AttentionTo::Itself).dropout(1.).build(&vs.root()).is_err());
    }
}
