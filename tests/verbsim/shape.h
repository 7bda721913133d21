/*
 * shape: what its test looks at; everybody else uses vs.h
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_SHAPE_H
#define VERBSIM_SHAPE_H

#include "vs.h"

/* Reads the profile @file; false with @error (g_free()) if it is bad. */
bool vs_shape_parse(const char *file, VsShape *shape, char **error);

/* The file of the profile @name (g_free()), or NULL. */
char *vs_shape_find(const char *name);

#endif
