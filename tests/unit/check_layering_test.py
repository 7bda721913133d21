#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The layering check must fail on a tree that breaks a rule.

Each test lays a small good tree into a temporary directory, spoils one thing,
and looks for the offender's place and reason in what the script prints.
"""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts/check-layering'

GOOD = {
    'docs/architecture.md': '''\
# Rooms
| room | job | may call |
| --- | --- | --- |
| `wire` | bytes | – |
| `verbs` | ibv | – |
| `link` | cm | `verbs`, `wire` |
| `control` | messages | `link`, `wire` |

| other | table | here |
''',
    'include/migration/rdma-transport.h': '#include <glib.h>\n',
    'migration/rdma/wire.h': '#include <glib.h>\n',
    'migration/rdma/wire.c': '#include "wire.h"\n#include <string.h>\n',
    'migration/rdma/verbs.h': '#include <glib.h>\n',
    'migration/rdma/verbs-priv.h':
        '#include <infiniband/verbs.h>\n#include "verbs.h"\n',
    'migration/rdma/verbs.c':
        '#include "verbs-priv.h"\nint f(void)\n{\n    ibv_poll_cq();\n}\n',
    'migration/rdma/link.h':
        '#include <sys/socket.h>\n#include "migration/rdma-transport.h"\n'
        '#include "verbs.h"\n',
    'migration/rdma/link-priv.h':
        '#include <rdma/rdma_cma.h>\n#include "link.h"\n'
        '#include "verbs-priv.h"\n',
    'migration/rdma/link-setup.c':
        '#include "link-priv.h"\nint g(void)\n{\n'
        '    struct ibv_pd *pd;\n    rdma_connect();\n}\n',
    'migration/rdma/control.c':
        '#include "link.h"\n/* ibv_post_send() and rdma_connect() are far */\n'
        'const char *s = "rdma_connect(";\n',
    'tests/unit/test-wire.c':
        'int main(void)\n{\n' + '    f();\n' * 57 + '}\n',
}


class CheckLayering(unittest.TestCase):
    def run_with(self, changes):
        with tempfile.TemporaryDirectory() as top:
            for name, text in {**GOOD, **changes}.items():
                if text is not None:
                    path = Path(top, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text, encoding='utf-8')
            return subprocess.run([sys.executable, SCRIPT, top],
                                  text=True, capture_output=True, check=False)

    def assert_refused(self, name, text, *needles):
        result = self.run_with({name: text})
        output = result.stdout + result.stderr
        self.assertEqual(result.returncode, 1, output)
        for needle in needles:
            self.assertIn(needle, output)

    def test_good_tree(self):
        result = self.run_with({})
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertTrue(result.stdout.startswith('ok: 9 core files in 4 '))

    def test_upward_call(self):
        self.assert_refused('migration/rdma/link.c', '\n#include "control.h"\n',
                            'link.c:2:', 'may not call `control`')
        self.assert_refused('migration/rdma/wire.c', '#include "verbs.h"\n',
                            'wire.c:1:', '`wire` may not call `verbs`')

    def test_skipped_room(self):
        """control may call link, but not reach past it."""
        self.assert_refused('migration/rdma/control.c', '#include "verbs.h"\n',
                            'control.c:1:', 'may not call `verbs`')

    def test_private_header(self):
        self.assert_refused('migration/rdma/control.c',
                            '#include "verbs-priv.h"\n', 'private to `verbs`')
        self.assert_refused('migration/rdma/verbs.c',
                            '#include "link-priv.h"\n', 'private to `link`')

    def test_library_header(self):
        self.assert_refused('migration/rdma/control.c',
                            '# include <infiniband/verbs.h>\n',
                            'control.c:1:', '<infiniband/verbs.h>')
        self.assert_refused('migration/rdma/control.c',
                            '#include <rdma/rdma_cma.h>\n',
                            '<rdma/rdma_cma.h>')
        self.assert_refused('migration/rdma/verbs.h',
                            '#include <infiniband/verbs.h>\n', 'verbs.h:1:')

    def test_library_call(self):
        self.assert_refused('migration/rdma/control.c',
                            'int x = ibv_post_send (qp);\n',
                            'ibv_post_send() may be called by verbs only')
        self.assert_refused('migration/rdma/link.c', '\n\nibv_poll_cq();\n',
                            'link.c:3:', 'by verbs only')
        self.assert_refused('migration/rdma/verbs.c', 'rdma_connect();\n',
                            'rdma_connect() may be called by link only')
        self.assert_refused('migration/rdma/control.c', 'struct ibv_mr *m;\n',
                            'ibv_mr is known to verbs and link only')

    def test_foreign_header(self):
        self.assert_refused('migration/rdma/wire.c',
                            '#include "qemu/osdep.h"\n',
                            '"qemu/osdep.h" is no header of the core')
        self.assert_refused('migration/rdma/wire.c', '#include <qemu/bswap.h>\n',
                            '<qemu/bswap.h> is no header of the system')
        self.assert_refused('migration/rdma/wire.c', '#include "ram.h"\n',
                            '"ram.h" is no header of the core')

    def test_public_header(self):
        name = 'include/migration/rdma-transport.h'
        self.assert_refused(name, '#include "qapi/error.h"\n', 'public header')
        self.assert_refused(name, '#include <infiniband/verbs.h>\n',
                            'public header')
        self.assert_refused(name, 'struct ibv_qp *qp;\n', 'ibv_qp')

    def test_unknown_room(self):
        self.assert_refused('migration/rdma/cellar.c', '',
                            'cellar.c:1:', 'belongs to no room')

    def test_sizes(self):
        self.assert_refused('tests/unit/test-wire.c',
                            '/* why */\nint\nmain(void)\n{\n' +
                            '    f();\n' * 57 + '}\n',
                            'test-wire.c:2: main() has 61 lines')
        self.assert_refused('migration/other.c', '\n' * 801,
                            'other.c:1: 801 lines')

    def test_table(self):
        doc = 'docs/architecture.md'
        self.assert_refused(doc, None, 'architecture.md is missing')
        self.assert_refused(doc, '# No table\n', 'has no table')
        self.assert_refused(doc, GOOD[doc].replace('| – |', '| `link` |', 1),
                            "`wire` may call ['link']")

    def test_empty_tree(self):
        result = self.run_with({name: None for name in GOOD
                                if name.startswith('migration/')})
        self.assertEqual(result.returncode, 1)
        self.assertIn('no C files', result.stderr)


if __name__ == '__main__':
    unittest.main()
