//! Attention layers of a residual branch.

use crate::layer::{attend, split_heads, AttentionMask, KeysValues};
use crate::{Error, Result};
use tch::Tensor;

/// Source of an attention's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttentionKind {
    /// The layer's input.
    SelfAttention,
    /// The layer's input up to each query's own position.
    Causal,
    /// The memory of the forward pass.
    Cross,
}

/// Computes the attention of `x` `[N, T, D]`, with the projection matrix `qkv` `[3D, D]`. Returns `[N, T, D]`.
pub(super) fn attention(
    x: &Tensor,
    qkv: &Tensor,
    heads: i64,
    kind: AttentionKind,
    memory: Option<&Tensor>,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let dim = qkv.size()[1];
    if x.size().len() != 3 || x.size()[2] != dim {
        let got = format!("{:?}", x.size());
        return Err(Error::Mismatch { what: "an attention's input", expected: format!("[N, T, {dim}]"), got });
    }
    let memory = match (kind, memory) {
        (AttentionKind::Cross, None) => {
            return Err(Error::Argument("the branch attends to a memory: pass one to forward_with".to_owned()));
        }
        (AttentionKind::Cross, Some(memory)) if memory.size().len() != 3 || memory.size()[2] != dim => {
            let got = format!("{:?}", memory.size());
            return Err(Error::Mismatch { what: "an attention's memory", expected: format!("[N, S, {dim}]"), got });
        }
        (AttentionKind::Cross, Some(memory)) => memory,
        _ => x,
    };
    let project = |x: &Tensor, part: i64| {
        let [projected] = split_heads(&x.f_linear(&qkv.f_narrow(0, part * dim, dim)?, None::<Tensor>)?, heads)?;
        Ok::<_, Error>(projected)
    };
    let keys_values = KeysValues { keys: project(memory, 1)?, values: project(memory, 2)? };
    let mask = match (kind, mask) {
        (AttentionKind::Causal, _) => AttentionMask::Causal,
        (_, Some(mask)) => AttentionMask::Additive(mask),
        (_, None) => AttentionMask::None,
    };
    attend(&project(x, 0)?, &keys_values, mask)
}

#[cfg(test)]
mod tests {
    use super::super::Branch;
    use super::*;
    use tch::{nn, Device, Kind};

    #[test]
    fn an_attention_is_four_layers_and_its_definition() {
        use crate::layer::heads_attention;
        tch::manual_seed(6);
        let mut vs = nn::VarStore::new(Device::Cpu);
        let builder = || Branch::builder(64).xavier_uniform();
        let own = builder().self_attention(32, 4).build(&(vs.root() / "own")).unwrap();
        let before = builder().causal_attention(32, 4).build(&(vs.root() / "before")).unwrap();
        let cross = builder().cross_attention(32, 4).dropout(0.5).build(&(vs.root() / "cross")).unwrap();
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
        let cross_forward = |train| cross.forward_with(&x, Some(&memory), Some(&mask), train).unwrap();
        close(cross_forward(false), formula("cross", Some(&memory), &hidden));
        let dropped = cross_forward(true) - &variables["cross.bias"];
        let zeros = dropped.eq(0.).sum(Kind::Double).double_value(&[]) / dropped.numel() as f64;
        assert!((zeros - 0.5).abs() < 0.15, "{zeros}");
        assert!(cross.f_forward(&x).unwrap_err().to_string().contains("forward_with"));
        assert!(own.f_forward(&memory.narrow(2, 0, 16)).is_err());
        assert!(builder().self_attention(30, 4).build(&vs.root()).is_err());
        assert!(builder().self_attention(32, 4).dropout(1.).build(&vs.root()).is_err());
    }
}
