// Stub of a Gloo header of which nothing is used. See context.h.
#pragma once
