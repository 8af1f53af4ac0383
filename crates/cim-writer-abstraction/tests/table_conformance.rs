//! The suite for sinks, over the table of functions and the emulator behind it.

use cim_writer_abstraction::{
    CimKind, CimName, CimSink, Validate,
    emu::Emulator,
    table::TableSink,
    testing::{SinkCase, sink_conformance},
    validate::Names,
};

struct Emulated {
    emulator: Emulator,
    places: u32,
    validated: bool,
}

impl Emulated {
    fn new(validated: bool) -> Self {
        Self { emulator: Emulator::new().expect("a world is free"), places: 0, validated }
    }
}

impl SinkCase for Emulated {
    fn place(&mut self, kind: CimKind) -> String {
        self.places += 1;
        match kind {
            CimKind::Forked => format!("C:\\cims\\{}", self.places),
            CimKind::Block => format!("C:\\s\\{}\\layer.vhd", self.places),
        }
    }

    fn sink(&mut self) -> Box<dyn CimSink + '_> {
        let sink = TableSink::new(self.emulator.api());
        if self.validated { Box::new(Validate::over(sink, Names::unknown())) } else { Box::new(sink) }
    }

    fn dump(&mut self, place: &str, name: &CimName) -> Option<String> {
        self.emulator.dump(place, name).ok()
    }
}

#[test]
fn the_table_over_the_emulator_keeps_the_rules() {
    let mut case = Emulated::new(false);
    sink_conformance(&mut case);
    assert_eq!(case.emulator.open_handles(), 0);
}

#[test]
fn a_validated_sink_keeps_the_rules() {
    let mut case = Emulated::new(true);
    sink_conformance(&mut case);
    assert_eq!(case.emulator.open_handles(), 0);
}
