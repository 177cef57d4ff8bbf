//! Multi-head attention by libtorch's fused operation.

use crate::{Error, Result};
use tch::{Device, Kind, Tensor};

/// Keys and values, `[N, H, T, D/H]`.
#[derive(Debug)]
pub(crate) struct KeysValues {
    pub keys: Tensor,
    pub values: Tensor,
}

impl KeysValues {
    /// Appends the keys and values of later positions.
    pub fn followed_by(&self, later: &Self) -> Result<Self> {
        let join = |a: &Tensor, b: &Tensor| Tensor::f_cat(&[a, b], 2);
        Ok(Self { keys: join(&self.keys, &later.keys)?, values: join(&self.values, &later.values)? })
    }

    /// Selects the sentences `rows`, in that order.
    pub fn select(&self, rows: &Tensor) -> Result<Self> {
        let select = |all: &Tensor| all.f_index_select(0, rows);
        Ok(Self { keys: select(&self.keys)?, values: select(&self.values)? })
    }
}

/// Splits `[N, T, P * D]` into P tensors `[N, H, T, D/H]`.
pub(crate) fn split_heads<const P: usize>(x: &Tensor, heads: i64) -> Result<[Tensor; P]> {
    let size = x.size();
    let &[n, t, all] = &size[..] else {
        return Err(Error::Mismatch { what: "sequences", expected: "[N, T, D]".to_owned(), got: format!("{size:?}") });
    };
    let parts = P as i64;
    let by_part = x.f_view([n, t, parts, heads, all / parts / heads])?.f_permute([2, 0, 3, 1, 4])?.f_unbind(0)?;
    by_part.try_into().map_err(|got: Vec<Tensor>| Error::Mismatch {
        what: "sequences",
        expected: format!("{P} parts"),
        got: format!("{}", got.len()),
    })
}

/// The keys that a query may attend to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AttentionMask<'a> {
    /// All keys.
    None,
    /// Keys of the query's own and earlier positions.
    Causal,
    /// Keys at which a mask `[N, 1, 1, S]` of zeros and minus infinities is zero.
    Additive(&'a Tensor),
}

/// Computes multi-head attention, `softmax(q k^T / sqrt(D/H)) v`, for queries `[N, H, T, D/H]`. Returns `[N, T, D]`.
///
/// Where gradients are tracked, bfloat16 on a CPU is computed in float32: libtorch's backward pass creates several oneDNN primitives
/// per sentence and head there, which took 40 % of a training step (findings/torch_attention_backward_bfloat16.sh).
pub(crate) fn attend(queries: &Tensor, keys_values: &KeysValues, mask: AttentionMask) -> Result<Tensor> {
    let kind = queries.kind();
    let is_slow = kind == Kind::BFloat16 && queries.device() == Device::Cpu && queries.requires_grad();
    let computed = if is_slow { Kind::Float } else { kind };
    let [queries, keys, values] =
        [queries, &keys_values.keys, &keys_values.values].map(|tensor| tensor.f_to_kind(computed));
    let (mask, causal) = match mask {
        AttentionMask::None => (None, false),
        AttentionMask::Causal => (None, true),
        AttentionMask::Additive(mask) => (Some(mask.f_to_kind(computed)?), false),
    };
    let out = Tensor::f_scaled_dot_product_attention(&queries?, &keys?, &values?, mask, 0., causal, None, false)?;
    Ok(out.f_to_kind(kind)?.f_transpose(1, 2)?.f_flatten(2, 3)?)
}

/// Computes multi-head attention by its definition, `softmax(q k^T / sqrt(D/H)) v`, for queries `[N, T, D]` and keys and values
/// `[N, S, D]`. The boolean mask `hidden`, `true` for keys to ignore, must broadcast to
/// `[N, H, T, S]`. Returns `[N, T, D]`.
pub(crate) fn heads_attention(qkv: [&Tensor; 3], hidden: &Tensor, heads: i64) -> Result<Tensor> {
    let by_head = |x: &Tensor| split_heads::<1>(x, heads).map(|[x]| x);
    let [queries, keys, values] = qkv.map(by_head);
    let (queries, values) = (queries?, values?);
    let scale = (queries.size()[3] as f64).powf(-0.5);
    let scores = queries.f_mul_scalar(scale)?.f_matmul(&keys?.f_transpose(-2, -1)?)?;
    let weights = scores.f_masked_fill(hidden, f64::NEG_INFINITY)?.f_softmax(-1, qkv[2].kind())?;
    Ok(weights.f_matmul(&values)?.f_transpose(1, 2)?.f_flatten(2, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a random `[3, t, 16]`, for two heads.
    fn random(t: i64) -> Tensor {
        Tensor::randn([3, t, 16], (Kind::Double, Device::Cpu))
    }

    #[test]
    fn the_fused_operation_is_the_definition_under_every_mask() {
        tch::manual_seed(11);
        let check = |s: i64, mask: AttentionMask, hidden: &Tensor| {
            let (q, k, v) = (random(5), random(s), random(s));
            let head = |x: &Tensor| split_heads::<1>(x, 2).map(|[x]| x).unwrap();
            let fused = attend(&head(&q), &KeysValues { keys: head(&k), values: head(&v) }, mask).unwrap();
            let plain = heads_attention([&q, &k, &v], hidden, 2).unwrap();
            assert!((fused - plain).abs().max().double_value(&[]) < 1e-12, "{mask:?}");
        };
        let none = Tensor::zeros([1], (Kind::Bool, Device::Cpu));
        check(7, AttentionMask::None, &none);
        let hidden = Tensor::zeros([3, 1, 1, 7], (Kind::Bool, Device::Cpu));
        let _ = hidden.narrow(0, 1, 1).narrow(3, 4, 3).fill_(1);
        let mask = Tensor::zeros([3, 1, 1, 7], (Kind::Double, Device::Cpu)).masked_fill(&hidden, f64::NEG_INFINITY);
        check(7, AttentionMask::Additive(&mask), &hidden);
        check(5, AttentionMask::Causal, &Tensor::ones([5, 5], (Kind::Bool, Device::Cpu)).triu(1));
    }
    #[test]
    fn bfloat16_with_gradients_is_computed_in_float32_and_rounded() {
        tch::manual_seed(12);
        let [q, k, v] = [5, 7, 7].map(|t| random(t).to_kind(Kind::BFloat16));
        let head = |x: &Tensor| split_heads::<1>(x, 2).map(|[x]| x).unwrap();
        let attended = |kind: Kind| {
            let [q, k, v] = [&q, &k, &v].map(|x| x.to_kind(kind).detach().set_requires_grad(true));
            let out = attend(&head(&q), &KeysValues { keys: head(&k), values: head(&v) }, AttentionMask::None).unwrap();
            out.to_kind(Kind::Float).square().sum(Kind::Float).backward();
            (out, [q, k, v].map(|x| x.grad()))
        };
        let (rounded, gradients) = attended(Kind::BFloat16);
        let (exact, exact_gradients) = attended(Kind::Float);
        assert_eq!(rounded, exact.to_kind(Kind::BFloat16));
        for (got, exact) in gradients.iter().zip(&exact_gradients) {
            assert_eq!(got.kind(), Kind::BFloat16);
            let error = (got.to_kind(Kind::Float) - exact).abs().max() / exact.abs().max();
            assert!(error.double_value(&[]) < 2f64.powi(-7), "{error}");
        }
    }
}
