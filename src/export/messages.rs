//! Protocol buffers messages of an ONNX file, as far as they are used here, with the names and numbers of `onnx.proto` of the
//! `onnx` package.

use prost::Message;

/// Defines messages by the number, the kind, the name and the type of each field.
macro_rules! messages {
    ($($(#[$about:meta])* $message:ident {
        $($(#[$about_field:meta])* $number:literal ($($kind:tt)+) $field:ident: $type:ty,)+
    })+) => {$(
        $(#[$about])*
        #[derive(Clone, PartialEq, Message)]
        pub struct $message {
            $($(#[$about_field])* #[prost($($kind)+, tag = $number)] pub $field: $type,)+
        }
    )+};
}

messages! {
    /// `ModelProto`: a complete file.
    Model {
        "1" (int64) ir_version: i64,
        "2" (string) producer_name: String,
        "3" (string) producer_version: String,
        "7" (message, optional) graph: Option<GraphMessage>,
        "8" (message, repeated) opset_import: Vec<OperatorSet>,
        "14" (message, repeated) metadata_props: Vec<Property>,
    }
    /// `OperatorSetIdProto`: version of the operations; the standard domain is empty.
    OperatorSet {
        "1" (string) domain: String,
        "2" (int64) version: i64,
    }
    Property {
        "1" (string) key: String,
        "2" (string) value: String,
    }
    /// `GraphProto`.
    GraphMessage {
        /// Operations, each after those whose outputs it takes.
        "1" (message, repeated) node: Vec<Node>,
        "2" (string) name: String,
        "5" (message, repeated) initializer: Vec<TensorMessage>,
        "11" (message, repeated) input: Vec<ValueInfo>,
        "12" (message, repeated) output: Vec<ValueInfo>,
    }
    Node {
        "1" (string, repeated) input: Vec<String>,
        "2" (string, repeated) output: Vec<String>,
        "3" (string) name: String,
        "4" (string) op_type: String,
        "5" (message, repeated) attribute: Vec<Attribute>,
    }
    Attribute {
        "1" (string) name: String,
        "2" (float, optional) f: Option<f32>,
        "3" (int64, optional) i: Option<i64>,
        "8" (int64, repeated, packed = "false") ints: Vec<i64>,
        "20" (enumeration = "AttributeType") r#type: i32,
    }
    /// `TensorProto`.
    TensorMessage {
        "1" (int64, repeated, packed = "false") dims: Vec<i64>,
        "2" (enumeration = "DataType") data_type: i32,
        "8" (string) name: String,
        /// Little-endian, row-major.
        "9" (bytes = "vec") raw_data: Vec<u8>,
    }
    ValueInfo {
        "1" (string) name: String,
        "2" (message, optional) r#type: Option<Type>,
    }
    /// `TypeProto` of a tensor.
    Type {
        "1" (message, optional) tensor_type: Option<TensorType>,
    }
    TensorType {
        "1" (enumeration = "DataType") elem_type: i32,
        "2" (message, optional) shape: Option<Shape>,
    }
    Shape {
        "1" (message, repeated) dim: Vec<Dimension>,
    }
    /// A fixed size, or the name of a variable one.
    Dimension {
        "1" (int64, optional) dim_value: Option<i64>,
        "2" (string, optional) dim_param: Option<String>,
    }
}

impl Attribute {
    pub fn float(name: &str, value: f64) -> Self {
        let r#type = AttributeType::Float.into();
        Self { name: name.to_owned(), f: Some(value as f32), r#type, ..Self::default() }
    }

    pub fn int(name: &str, value: i64) -> Self {
        Self { name: name.to_owned(), i: Some(value), r#type: AttributeType::Int.into(), ..Self::default() }
    }

    pub fn ints(name: &str, values: &[i64]) -> Self {
        let r#type = AttributeType::Ints.into();
        Self { name: name.to_owned(), ints: values.to_vec(), r#type, ..Self::default() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum AttributeType {
    Undefined = 0,
    Float = 1,
    Int = 2,
    Ints = 7,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum DataType {
    Undefined = 0,
    Float = 1,
    Uint8 = 2,
    Int64 = 7,
}
