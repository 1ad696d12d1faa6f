//! Canonical forms by the standard's rules, and what is refused.

use super::*;
use proptest::prelude::*;

#[track_caller]
fn check(text: &str, canonical: Option<&str>) {
    let found = Element::parse(text.as_bytes()).ok();
    let found = found.map(|root| String::from_utf8(root.canonical()).unwrap());
    assert_eq!(found.as_deref(), canonical);
}

#[test]
fn canonical_form_is_that_of_the_standard() {
    check("<a/>", Some("<a></a>"));
    check(
        "<?xml version=\"1.0\"?>\n<!-- c --><a  b = 'x\ny' ></a>\n",
        Some("<a b=\"x y\"></a>"),
    );
    check("<a z='1' b='2'/>", Some("<a b=\"2\" z=\"1\"></a>"));
    check(
        "<a xmlns:y='u1' xmlns:x='u2' x:q='1' y:r='2' p='3'/>",
        Some("<a xmlns:x=\"u2\" xmlns:y=\"u1\" p=\"3\" y:r=\"2\" x:q=\"1\"></a>"),
    );
    check(
        "<a xmlns='u'><b xmlns='u'/></a>",
        Some("<a xmlns=\"u\"><b></b></a>"),
    );
    check(
        "<a xmlns='u'><b xmlns=''/></a>",
        Some("<a xmlns=\"u\"><b xmlns=\"\"></b></a>"),
    );
    check(
        "<a>1<!-- c -->2&lt;&#xD;&gt;\r\n</a>",
        Some("<a>12&lt;&#xD;&gt;\n</a>"),
    );
    check(
        "<a b='&quot;&#9;&#10;&#xD;&apos;'/>",
        Some("<a b=\"&quot;&#x9;&#xA;&#xD;'\"></a>"),
    );
}

#[test]
fn what_is_outside_of_the_subset_is_refused() {
    for text in [
        "",
        "a",
        "<a>",
        "<a></b>",
        "<a/><b/>",
        "<!DOCTYPE a><a/>",
        "<a><![CDATA[x]]></a>",
        "<a><?p?></a>",
        "<a b='1' b='2'/>",
        "<x:a/>",
        "<a x:b='1'/>",
        "<a xml:lang='e'/>",
        "<a>&nbsp;</a>",
        "<a>&amp</a>",
        "<a b=1/>",
        "<a b='<'/>",
        "<a b='1'c='2'/>",
        "<a xmlns:x='u' xmlns:y='u' x:b='1' y:b='2'/>",
        "<a>]]></a>",
        "<a:b:c/>",
        "<a>&#0;</a>",
        "<a xmlns:x=''/>",
        "<a/>b",
        "<1/>",
    ] {
        check(text, None);
    }
    check(&"<a>".repeat(100), None);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic_and_canonical_forms_are_stable(text in "[<>/a:&;#x'\"= \n!-]{0,60}") {
        if let Ok(root) = Element::parse(text.as_bytes()) {
            let canonical = root.canonical();
            let again = Element::parse(&canonical).unwrap().canonical();
            prop_assert_eq!(canonical, again);
        }
    }
}

#[test]
fn what_an_element_leaves_out_is_not_in_its_canonical_form() {
    let root = Element::parse(b"<a xmlns:d='u'>1<d:b>2</d:b>3<c><d:b/></c></a>").unwrap();
    let found = root.canonical_except(|element| element.is("u", "b"));
    let expected = "<a xmlns:d=\"u\">13<c><d:b></d:b></c></a>";
    assert_eq!(String::from_utf8(found).unwrap(), expected);
}

#[test]
fn namespaces_in_scope_are_few_and_size_and_attributes_bounded() {
    let declaring = |count: usize| -> String {
        let all: String = (0..count)
            .map(|number| format!(" xmlns:n{number}='u'"))
            .collect();
        format!("<a{all}/>")
    };
    assert!(Element::parse(declaring(16).as_bytes()).is_ok());
    let error = Element::parse(declaring(17).as_bytes()).unwrap_err();
    assert_eq!(error, XmlError::TooLarge("number of namespaces"));
    let attributes: String = (0..65).map(|number| format!(" a{number}=''")).collect();
    assert!(Element::parse(format!("<a{attributes}/>").as_bytes()).is_err());
    let error = Element::parse(&vec![b' '; 256 * 1024 + 1]).unwrap_err();
    assert_eq!(error, XmlError::TooLarge("document"));
}
