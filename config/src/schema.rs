//! JSON Schema of each kind, made from the tables of fields that the reader checks by, so that editors complete and
//! check as one types. A schema is looser than the reader: what holds between fields or documents only the reader says.
//!
//! Source: JSON Schema draft 2020-12.

use serde_json::{Map, Value, json};
use vouchsafe_attestation::claims::{
    ClaimDefinition, ClaimType, EvidenceKind, Texts, claims_of, definition,
};

use crate::claim;
use crate::document::Kind;
use crate::shape::{Field, MapShape, Shape, device_keys};

/// The schema of one kind, as text that ends with a line end.
pub fn of(kind: Kind) -> String {
    let mut schema = map(kind.shape());
    if let Some(object) = schema.as_object_mut() {
        object.insert(
            "$schema".to_owned(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        object.insert("title".to_owned(), json!(kind.as_str()));
        // Each list of claims stands once, wherever it is used.
        let text = Value::Object(object.clone()).to_string();
        let used = |kind: &EvidenceKind| text.contains(&claims_at(*kind));
        let lists: Map<String, Value> = EvidenceKind::ALL
            .into_iter()
            .filter(used)
            .map(|kind| (format!("{kind}_claims"), claims(kind, "")))
            .collect();
        if !lists.is_empty() {
            object.insert("$defs".to_owned(), Value::Object(lists));
        }
    }
    format!("{schema:#}\n")
}

/// The name of the file that holds the schema of a kind: `access-policy.json`.
pub fn file_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Mesh => "mesh.json",
        Kind::AttestationProfile => "attestation-profile.json",
        Kind::Node => "node.json",
        Kind::Workload => "workload.json",
        Kind::AccessPolicy => "access-policy.json",
        Kind::Revocation => "revocation.json",
        Kind::Proxy => "proxy.json",
        Kind::ControlPlane => "control-plane.json",
        Kind::PolicyTest => "policy-test.json",
    }
}

/// The name of the file that holds the page of claims.
pub const CLAIMS_FILE: &str = "claims.md";

/// The page of claims for people, as Markdown: what each kind of evidence says, and how it compares.
pub fn claims_page() -> String {
    let mut page = CLAIMS_HEAD.to_owned();
    page.push_str("\n| Type | Is compared with |\n|---|---|\n");
    for value in ClaimType::ALL {
        page.push_str(&format!(
            "| {} | {} |\n",
            value.as_str(),
            claim::allowed(value)
        ));
    }
    for kind in EvidenceKind::ALL {
        page.push_str(&format!("\n## {}\n\n", kind.as_str()));
        page.push_str(&format!("{}.\n\n", kind.title()));
        page.push_str("| Claim | Type | Says |\n|---|---|---|\n");
        for claim in claims_of(kind) {
            let (name, value) = (claim.name, claim.value.as_str());
            let doc = claim.doc.replace('|', "\\|");
            let texts = match claim.texts {
                Texts::Open => String::new(),
                texts => format!(": {}", claim::texts_allowed(texts)),
            };
            page.push_str(&format!("| `{name}` | {value}{texts} | {doc} |\n"));
        }
    }
    page
}

/// What stands above the tables.
const CLAIMS_HEAD: &str = "\
# Claims

What an attestation result can say of a machine, by kind of evidence.
These names are stable: they stand in certificates, in an `AttestationProfile`, in `require` of an `AccessPolicy` and in a `Revocation`.
A name that is not here is an error of policy, with the nearest names that exist.
`vouchsafe schema --write config/schema` writes this page from the catalog that verifiers and policy share.
Lists are alternatives: one of them must hold.
A text that says what it can be is compared with nothing else: another word or length is an error of policy.
Hexadecimal digits may be in upper case.
A name with dots is written as a map in a map: `tcb.snp` as `tcb: {snp: \">=22\"}`.
";

fn map(shape: &MapShape) -> Value {
    let built = || {
        let fields = shape.fields.iter();
        fields.filter(|field| !matches!(field.shape, Shape::NotBuilt))
    };
    let properties: Map<String, Value> = built()
        .map(|field| (field.key.to_owned(), field_schema(field)))
        .collect();
    let required: Vec<_> = built()
        .filter(|field| field.required)
        .map(|field| field.key)
        .collect();
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if let Some(object) = schema.as_object_mut() {
        if !required.is_empty() {
            object.insert("required".to_owned(), json!(required));
        }
        let groups: Vec<Value> = shape
            .exactly_one
            .iter()
            .map(|group| {
                let one: Vec<_> = group.iter().map(|key| json!({"required": [key]})).collect();
                json!({"oneOf": one})
            })
            .collect();
        if !groups.is_empty() {
            object.insert("allOf".to_owned(), json!(groups));
        }
    }
    schema
}

fn field_schema(field: &Field) -> Value {
    let mut schema = of_shape(&field.shape);
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), json!(field.doc));
        if !field.default.is_empty() {
            object.insert("default".to_owned(), default_of(field));
        }
    }
    schema
}

/// Defaults are kept as they would be written in YAML.
fn default_of(field: &Field) -> Value {
    match &field.shape {
        Shape::Bool => json!(field.default == "true"),
        Shape::Number(..) => json!(crate::shape::parse_number(field.default)),
        Shape::List(_) | Shape::ListOrEmpty(_) => {
            let items = field.default.trim_matches(['[', ']']).split(", ");
            json!(items.filter(|item| !item.is_empty()).collect::<Vec<_>>())
        }
        Shape::Map(_) | Shape::MapOf(..) | Shape::Claims(_) | Shape::Device(..) => json!({}),
        Shape::Text(_) | Shape::Word(_) | Shape::AnyOr(_) | Shape::NotBuilt => json!(field.default),
    }
}

fn of_shape(shape: &Shape) -> Value {
    match shape {
        Shape::Map(inner) => map(inner),
        Shape::MapOf(key, value) => json!({
            "type": "object",
            "propertyNames": {"pattern": key.pattern},
            "additionalProperties": of_shape(value),
        }),
        Shape::List(item) => json!({"type": "array", "minItems": 1, "items": of_shape(item)}),
        Shape::ListOrEmpty(item) => json!({"type": "array", "items": of_shape(item)}),
        Shape::Text(text) => json!({"type": "string", "pattern": text.pattern}),
        Shape::Word(words) => json!({"enum": words}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Number(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
        Shape::AnyOr(inner) => json!({"anyOf": [{"const": "any"}, of_shape(inner)]}),
        Shape::Claims(kind) => json!({"$ref": claims_at(*kind)}),
        Shape::Device(shape, kind) => device(shape, *kind),
        Shape::NotBuilt => json!(false),
    }
}

/// A section: its own keys, and claims that may be compared.
fn device(shape: &MapShape, kind: EvidenceKind) -> Value {
    let mut schema = map(shape);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for key in device_keys(shape, kind) {
            if !properties.contains_key(key) {
                let at = format!("{}/properties/{key}", claims_at(kind));
                properties.insert(key.to_owned(), json!({"$ref": at}));
            }
        }
    }
    schema
}

fn claims_at(kind: EvidenceKind) -> String {
    format!("#/$defs/{kind}_claims")
}

fn claims(kind: EvidenceKind, prefix: &str) -> Value {
    let properties: Map<String, Value> = claim::keys_below(kind, prefix)
        .map(|key| {
            let name = format!("{prefix}{key}");
            let schema = match definition(kind, &name) {
                Some(claim) => one_claim(claim),
                None => claims(kind, &format!("{name}.")),
            };
            (key.to_owned(), schema)
        })
        .collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn one_claim(claim: &ClaimDefinition) -> Value {
    let dotted = |part: &str| {
        json!({
            "type": "string",
            "pattern": format!("^(>=|<=|<|>)? *{part}+(\\.{part}+){{0,5}}$"),
        })
    };
    let one = match claim.value {
        ClaimType::Bool => json!({"type": "boolean"}),
        ClaimType::Number => json!({"anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^(>=|<=|<|>) *[0-9]+$"},
        ]}),
        ClaimType::Text | ClaimType::Set => match claim.texts {
            Texts::Open => json!({"type": "string", "minLength": 1}),
            Texts::Words(words) => json!({"enum": words}),
            Texts::Hex(bytes) => json!({
                "type": "string",
                "pattern": format!("^[0-9a-fA-F]{{{}}}$", bytes * 2),
            }),
            Texts::HexNumber(_) => json!({
                "type": "string",
                "pattern": "^0x0*[0-9a-fA-F]{1,16}$",
            }),
        },
        ClaimType::Version => dotted("[0-9]"),
        ClaimType::HexVersion => dotted("[0-9A-Fa-f]"),
        ClaimType::Time => json!({
            "type": "string",
            "pattern": "^(>=|<=|<|>)? *[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$",
        }),
    };
    json!({
        "anyOf": [one, {"type": "array", "minItems": 1, "items": one}],
        "description": format!("{} Allowed: {}.", claim.doc, claim::allowed_of(claim)),
    })
}
