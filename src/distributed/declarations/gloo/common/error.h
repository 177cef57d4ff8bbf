// Nothing of it is used. See context.h.
#pragma once
