//! What is remembered of the ports of a range.

use vouchsafe_config::proxy::UpstreamHttp;

use super::*;

fn application(number: u16) -> Rc<Application> {
    let upstream = Upstream::SamePort([127, 0, 0, 1].into());
    Rc::new(Application::new(upstream, number, Duration::from_secs(1)))
}

fn door(number: u16, application: &Rc<Application>) -> Rc<Door> {
    Rc::new(Door {
        port: InboundPort {
            name: "kv".parse().unwrap(),
            upstream: Upstream::SamePort([127, 0, 0, 1].into()),
            upstream_http: UpstreamHttp::Auto,
        },
        protocol: Protocol::Tcp,
        application: Rc::clone(application),
        number,
    })
}

#[test]
fn of_a_range_only_ports_in_use_are_remembered_and_of_few_ports_all() {
    let last = u16::try_from(KEPT_DOORS).unwrap();
    let (mut doors, mut applications) = (BTreeMap::new(), BTreeMap::new());
    let mut remember = |number: u16| {
        let application = application(number);
        let door = door(number, &application);
        applications.insert((0, number), application);
        doors.insert((0, number), Rc::clone(&door));
        door
    };
    for number in 1..=last {
        remember(number);
    }
    let in_use = remember(last + 1);
    forget_unused(&mut doors, &mut applications);
    assert_eq!(doors.keys().collect::<Vec<_>>(), [&(0, last + 1)]);
    assert_eq!(applications.keys().collect::<Vec<_>>(), [&(0, last + 1)]);
    // A few more are no burden.
    drop(in_use);
    forget_unused(&mut doors, &mut applications);
    assert_eq!((doors.len(), applications.len()), (1, 1));
}
