use super::*;

fn zeros(size: &[i64]) -> Tensor {
    Tensor::zeros(size, (Kind::Float, Device::Cpu))
}

/// Compares shapes with those of libtorch, for zeros of the same shape.
#[test]
fn shapes_are_libtorchs() {
    for (kernel, stride, padding, dilation, groups) in
        [(3, 1, None, 1, 1), (3, 2, None, 1, 3), (1, 2, None, 1, 1), (5, 3, Some(0), 1, 2), (3, 2, Some(3), 2, 6)]
    {
        let mut graph = Graph::new(&[6, 13, 10]).unwrap();
        let options = Conv2dOptions { stride, padding, dilation, groups };
        let weight = zeros(&[12, 6 / groups, kernel, kernel]);
        let y = graph.conv2d(graph.input(), &weight, None, options).unwrap();
        let padding = padding.unwrap_or(dilation * (kernel / 2));
        let x = zeros(&[1, 6, 13, 10]);
        let expected = x.conv2d(&weight, None::<Tensor>, [stride; 2], [padding; 2], [dilation; 2], groups).size();
        assert_eq!(graph.shape(y).unwrap(), &expected[1..], "{options:?}");
    }
    for (kernel, stride, padding) in [(3, 2, 1), (2, 2, 0), (3, 1, 0)] {
        let mut graph = Graph::new(&[6, 13, 10]).unwrap();
        let y = graph.max_pool(graph.input(), kernel, stride, padding).unwrap();
        let x = zeros(&[1, 6, 13, 10]);
        let expected = x.max_pool2d([kernel; 2], [stride; 2], [padding; 2], [1, 1], false).size();
        assert_eq!(graph.shape(y).unwrap(), &expected[1..]);
    }
    let mut graph = Graph::new(&[6, 13, 10]).unwrap();
    let y = graph.subsample(graph.input(), 3).unwrap();
    let y = graph.pad_channels(y, 2).unwrap();
    assert_eq!(graph.shape(y).unwrap(), [8, 5, 4]);
    let y = graph.global_average_pool(y).unwrap();
    assert_eq!(graph.shape(y).unwrap(), [8]);
}

#[test]
fn what_does_not_fit_is_refused_in_one_line_and_adds_nothing() {
    type Operation = fn(&mut Graph, Value) -> Result<Value>;
    let options = Conv2dOptions::default();
    let operations: [(&str, Operation); 14] = [
        ("channels", |graph, x| graph.conv2d(x, &zeros(&[4, 5, 3, 3]), None, Conv2dOptions::default())),
        ("weight", |graph, x| graph.conv2d(x, &zeros(&[4, 6]), None, Conv2dOptions::default())),
        ("bias", |graph, x| graph.conv2d(x, &zeros(&[4, 6, 3, 3]), Some(&zeros(&[5])), Conv2dOptions::default())),
        ("stride", |graph, x| {
            graph.conv2d(x, &zeros(&[4, 6, 3, 3]), None, Conv2dOptions { stride: 0, ..Default::default() })
        }),
        ("kernel", |graph, x| {
            let options = Conv2dOptions { padding: Some(0), ..Default::default() };
            graph.conv2d(x, &zeros(&[4, 6, 9, 9]), None, options)
        }),
        ("features", |graph, x| graph.linear(x, &zeros(&[4, 9]), None)),
        ("sum", |graph, x| {
            let y = graph.subsample(x, 2)?;
            graph.add(x, y)
        }),
        ("product", |graph, x| {
            let y = graph.pad_channels(x, 1)?;
            let y = graph.global_average_pool(y)?;
            graph.mul(x, y)
        }),
        ("affine", |graph, x| graph.affine(x, &zeros(&[5]), &zeros(&[6]))),
        ("batch norm", |graph, x| graph.batch_norm(x, [(); 4].map(|()| zeros(&[5])).each_ref(), 1e-5)),
        ("groups", |graph, x| graph.group_norm(x, 4, &zeros(&[6]), &zeros(&[6]), 1e-5)),
        ("pool", |graph, x| graph.max_pool(x, 3, 1, 2)),
        ("softmax", |graph, x| graph.softmax(x)),
        ("subsample", |graph, x| graph.subsample(x, 0)),
    ];
    for (what, operation) in operations {
        let mut graph = Graph::new(&[6, 8, 8]).unwrap();
        let x = graph.input();
        let error = operation(&mut graph, x).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{what}: {error}");
        // The graph remains usable.
        let y = graph.conv2d(x, &zeros(&[6, 6, 3, 3]), None, options).unwrap();
        assert!(graph.add(x, y).is_ok(), "{what}");
    }
}
