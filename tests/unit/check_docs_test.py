#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The document check must fail when document and code part.

Each test copies what the check reads into a temporary directory, changes one
thing on one side, and looks for it in what the script prints.

usage: check_docs_test.py WIRE_LAYOUT [unittest's options]
"""

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'scripts/check-docs'
LAYOUT = None
DOC = 'docs/rdma.txt'


class CheckDocs(unittest.TestCase):
    def setUp(self):
        top = tempfile.TemporaryDirectory()
        self.addCleanup(top.cleanup)
        self.root = Path(top.name)
        for part in ('docs', 'include', 'migration'):
            shutil.copytree(ROOT / part, self.root / part)
        (self.root / 'tests/unit').mkdir(parents=True)
        shutil.copy(ROOT / 'tests/unit/wire-layout.c',
                    self.root / 'tests/unit')

    def change(self, name, old, new):
        path = self.root / name
        text = path.read_text(encoding='utf-8')
        self.assertIn(old, text, f'{name} has changed: adapt this test')
        path.write_text(text.replace(old, new, 1), encoding='utf-8')

    def check(self, *needles, built=True):
        """Run it; with needles it must fail and name them."""
        args = ['--layout', LAYOUT] if built else []
        result = subprocess.run([sys.executable, SCRIPT, *args, self.root],
                                text=True, capture_output=True, check=False)
        output = result.stdout + result.stderr
        self.assertEqual(result.returncode, 1 if needles else 0, output)
        for needle in needles:
            self.assertIn(needle, output)

    def test_good_tree(self):
        self.check()
        self.check(built=False)

    def test_moved_field(self):
        self.change(DOC, '    8-11   u32   repeat ', '    8-11   u32   kind   ')
        self.check('field header: the document says')

    def test_gap_in_table(self):
        self.change(DOC, '    8-15   u64   offset     of the',
                    '    9-15   u64   offset     of the')
        self.check('bytes 9-15 are no u64 behind byte 7')

    def test_wrong_width(self):
        self.change(DOC, '    24-27  u32   rkey ', '    24-27  u64   rkey ')
        self.check('rkey: bytes 24-27 are no u64')

    def test_wrong_size(self):
        self.change(DOC, 'Result record (16 bytes)', 'Result record (24 bytes)')
        self.check('struct result: the document says 24, the code 16')

    def test_missing_table(self):
        self.change(DOC, '  Zero-run record (24 bytes)', '  A zero run')
        self.check('struct zero-run: the document says None')

    def test_message_number(self):
        self.change(DOC, '    6     COMPRESS ', '    16    COMPRESS ')
        self.check('type 6: the document says None', 'type 16:')

    def test_message_data(self):
        self.change(DOC, 'dest    16     any', 'dest    24     any')
        self.check("type 8: the document says ('REGISTER_RESULT', '24', 'any')")

    def test_message_repeat(self):
        self.change(DOC, 'source  24     count', 'source  24     any  ')
        self.check("('COMPRESS', '24', 'any')")

    def test_limit(self):
        self.change(DOC, ' 4096  RMIG', ' 4097  RMIG')
        self.check('RMIG_WIRE_RECORDS_MAX: the document says 4097')

    def test_flag(self):
        self.change(DOC, '    0      PIN_ALL          ',
                    '    1      PIN_ALL          ')
        self.check('flag PIN_ALL: the document says 1', 'the flags of the')

    def test_missing_flag(self):
        self.change(DOC, '    2      BUDGET ', '    (2)    BUDGET ')
        self.check('flag BUDGET: the document says None', 'the flags of the')

    def test_extension(self):
        self.change(DOC, '    8-15   u64   pin_bytes ',
                    '    8-15   u64   pin_kib   ')
        self.check("field extension: the document says {'length': (0, 4), "
                   "'pin_kib': (8, 8)}")

    def test_state(self):
        self.change(DOC, 'that answer arrives                           IDLE',
                    'that answer arrives                           REST')
        self.check('the state REST is in the document only')

    def test_quoted_message(self):
        self.change(DOC, '"no RDMA device leads', '"no RDMA adapter leads')
        self.check('no source has the message "no RDMA adapter leads')

    def test_section(self):
        self.change(DOC, 'Exchange rules\n------', 'Exchanges\n---------')
        self.check('refers to a section "Exchange rules"')

    def test_columns(self):
        self.change(DOC, 'Compiling\n', 'Compiling' + '.' * 80 + '\n')
        self.check('more than 80 columns')

    def test_dead_link(self):
        self.change('docs/architecture.md', '](rdma.txt)', '](rdma.pdf)')
        self.check('docs/architecture.md:', 'links to rdma.pdf')

    def test_code_moves_a_field(self):
        wire = 'migration/rdma/wire.c'
        self.change(wire, '    put32(&p, header->type);\n', '')
        self.change(wire, 'put32(&p, header->len);\n',
                    'put32(&p, header->type);\n    put32(&p, header->len);\n')
        self.check('field header: the document says', built=False)

    def test_code_moves_the_extension(self):
        wire = 'migration/rdma/wire.c'
        self.change(wire, '    length = get32(&p);\n',
                    '    get32(&p);\n    length = get32(&p);\n')
        self.check("the code {'pin_bytes': (8, 8), 'length': (4, 4)}",
                   built=False)

    def test_code_moves_a_constant(self):
        self.change('migration/rdma/wire.h', 'RECORDS_MAX 4096u',
                    'RECORDS_MAX 2048u')
        self.check('RMIG_WIRE_RECORDS_MAX: the document says 4096',
                   built=False)

    def test_code_gets_a_type(self):
        self.change('migration/rdma/wire.h', '    RMIG_WIRE_TYPES\n',
                    '    RMIG_WIRE_NEW = 16,\n    RMIG_WIRE_TYPES\n')
        self.change('migration/rdma/wire.c', '\n};\n',
                    '\n    [RMIG_WIRE_NEW] = EMPTY("NEW"),\n};\n')
        self.check('type 16: the document says None', built=False)

    def test_code_gets_a_state(self):
        self.change('migration/rdma/control.c', '    RMIG_CONTROL_STATES\n',
                    '    RMIG_CONTROL_NAPPING,\n    RMIG_CONTROL_STATES\n')
        self.check('the state NAPPING is in the code only')


if __name__ == '__main__':
    LAYOUT = sys.argv.pop(1)
    unittest.main()
